"""Compares the losses of two ranks on one device with those of one rank, with a replicated and a sharded teacher.

    python benchmarks/two_ranks.py

`caad_ds.training.processes.process_group` refuses a second rank on a GPU, as NCCL does. Here both use the first device
and communicate over gloo, so one GPU can test several ranks. Each engine runs the `tiny` setting of step.py in fp32 for
three steps, with all samples on one rank or half of them on each of two. Exit status 1 if a loss differs by more than
the tolerance.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from caad_ds.utils.text import read_text
from examples.demo.commands import free_port

PLACEMENTS = ("replicated", "resident")
STEPS = 3
# A loss is a mean over 384 answer rows of values near log(6000) = 8.7, where fp32 numbers lie 9.5e-7 apart. The batch's
# size changes the order in which products of width 64 to 128 are summed: a logit near 1 moves by some sqrt(128) times
# 6e-8, 7e-7, and the mean over rows by less. Ten spacings leave room for the weights of three steps of AdamW.
# Ranks that do not average their gradients are 6e-4 apart after the first step, 1e-3 after the second.
TOLERANCE = 1e-5

Losses = dict[str, list[dict[str, float]]]  # kd and ce of each step, by the teacher's placement


def run_rank(rank: int, ranks: int, port: int, folder: Path) -> None:
    """Run all steps of one rank; rank 0 writes the losses into `folder`."""
    from caad_ds.training.processes import process_group

    _join(rank, ranks, port)
    losses = {placed: _steps(rank, ranks, placed) for placed in PLACEMENTS}
    if rank == 0:
        (folder / f"{ranks}.json").write_text(json.dumps(losses))
    process_group.stop()


def _join(rank: int, ranks: int, port: int) -> None:
    """Join the other ranks over gloo, all on the first device."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    # On a CPU, DeepSpeed would replace gloo by its shared-memory op; this makes it assume one rank per node.
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": 0, "LOCAL_SIZE": 1, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    get_accelerator().set_device(0)
    dist.init_process_group("gloo")  # DeepSpeed's own call binds a GPU to the group, for NCCL
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)


def _steps(rank: int, ranks: int, placed: str) -> list[dict[str, float]]:
    from benchmarks.step import config, engines
    from benchmarks.step_models import SCALES, Setting

    torch.backends.cudnn.allow_tf32 = False  # the encoder's convolutions are fp32, too
    setting = Setting(SCALES["tiny"], "cuda" if torch.cuda.is_available() else "cpu")
    samples = len(setting.batch.keys)
    setting.batch = setting.batch.select(torch.arange(rank, samples, ranks, device=setting.batch.input_ids.device))
    found = []
    with engines(setting, config("fp32"), placed, Path()) as step:
        for _ in range(STEPS):
            [(kd, ce, _)] = step()
            mean = torch.stack([kd, ce]).double().cpu() / ranks  # ranks have equal numbers of samples
            dist.all_reduce(mean)
            found.append(dict(zip(("kd", "ce"), mean.tolist(), strict=True)))
    return found


def differences(one: Losses, two: Losses) -> list[tuple[str, int, str, float, float]]:
    """Return (placement, step, name, loss of one rank, of two ranks) for all losses."""
    return [
        (placed, step + 1, name, first[name], second[name])
        for placed in PLACEMENTS
        for step, (first, second) in enumerate(zip(one[placed], two[placed], strict=True))
        for name in first
    ]


def main() -> None:
    """Run one rank and two ranks, print their losses and compare them."""
    with tempfile.TemporaryDirectory() as folder:
        running = [mp.spawn(run_rank, (ranks, free_port(), Path(folder)), nprocs=ranks, join=False) for ranks in (1, 2)]
        for ranks in running:
            while not ranks.join():
                pass
        one, two = (json.loads(read_text(Path(folder, f"{ranks}.json"))) for ranks in (1, 2))
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    print(f"two ranks on {where} over gloo, 4 samples in all, float32; differences up to {TOLERANCE:g} are rounding\n")
    print("| teacher | step | loss | one rank | two ranks | difference |\n" + "|---" * 6 + "|")
    rows = differences(one, two)
    for placed, step, name, first, second in rows:
        print(f"| {placed} | {step} | {name} | {first:.7f} | {second:.7f} | {abs(first - second):.1e} |")
    apart = [row for row in rows if not abs(row[3] - row[4]) <= TOLERANCE]  # includes NaN
    if apart:
        sys.exit(f"error: {len(apart)} of {len(rows)} losses of two ranks are not one rank's within {TOLERANCE:g}")


if __name__ == "__main__":
    main()
