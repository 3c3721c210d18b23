"""Train a few steps in this process and print its peak memory above that before loading, in MiB.

    python -m tests.training.plan.measured CONFIG OUT [a.b=c ...]

A run of one sample a step goes before, so that libraries that are loaded when they are first used are not counted.
"""

import gc
import sys
from pathlib import Path

from caad_ds.config.reading import load_config
from caad_ds.training.processes import process_group
from caad_ds.training.trainer import Trainer
from caad_ds.utils.memory import PeakMemory
from caad_ds.utils.progress import Heartbeat

# Of glibc's allocator: what is freed is given back, so that the process holds what its tensors hold.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def main(config: str, out: str, *overrides: str) -> None:
    """Both runs, in one process group."""
    with Heartbeat(enabled=False) as heartbeat:
        device = process_group.start(heartbeat)
        for name, more in (("warm", ["optimizer.batch_size=1"]), ("run", [])):
            cfg = load_config(config, [*overrides, *more, f"run.output_dir={Path(out) / name}"])
            gc.collect()
            peak = PeakMemory("cpu")
            with Trainer(cfg, device, heartbeat) as trainer:
                trainer.run()
            del trainer
        print(f"peak MiB {peak.mib()}")
        process_group.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
