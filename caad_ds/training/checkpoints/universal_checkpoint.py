"""Convert and load checkpoints for another number of ranks, through DeepSpeed's universal format."""

import argparse
import os
import shutil
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from deepspeed.checkpoint import ds_to_universal

from caad_ds.utils.files import disk_errors

TAG = "deepspeed"
BYTES_PER_WEIGHT = 24  # two moments and the fp32 weight, as fragments of each rank and as whole tensors


def convert(checkpoint: Path, out: Path) -> None:
    """Merge DeepSpeed's shards of a verified `checkpoint` into whole weights at `out`/deepspeed; one rank calls it.

    It unpickles them, so their hashes must be checked first. An existing `out` is removed.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    # DeepSpeed uses its paths as patterns, which a bracket or a plus in ours would break.
    settings = argparse.Namespace(
        input_folder=os.path.relpath(checkpoint / TAG, out),
        output_folder=TAG,
        num_extract_workers=1,  # more would be forks of a process that holds a device and threads
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # ZeRO-2 writes no state of tensor parallelism, which is not used here
    )
    with disk_errors(out), chdir(out), open(os.devnull, "w") as nowhere:
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            ds_to_universal.main(settings)


def load_shards(folder: Path, engine: Any) -> None:
    """Load `folder`/deepspeed into the engine; every rank calls it."""
    with chdir(folder):  # as above
        engine.load_checkpoint(".", tag=TAG, load_module_strict=False)


def load(converted: Path, engine: Any) -> None:
    """Load what `convert` wrote; every rank calls it. Frozen weights are not in it and stay as they are."""
    engine._config.load_universal_checkpoint = True  # its JSON's "load_universal", which was read before this was known
    try:
        load_shards(converted, engine)
    finally:
        engine._config.load_universal_checkpoint = False
    # ZeRO-3 shares one tensor for AdamW's step count among its sub-groups; each needs its own.
    for state in engine.optimizer.optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()
