"""Replaces the training entry: prints its rank, handles USR1, exits with the given status."""

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--statuses", type=int, nargs="+", default=[0], help="exit status of each rank")
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0], help="seconds each rank takes")
    parser.add_argument("--until-usr1", action="store_true", help="run until USR1, then exit 75 and, requeued, 0")
    parser.add_argument("--deaf", action="store_true", help="on the first start, do not hold USR1")
    args = parser.parse_args()
    rank = int(os.environ["RANK"])
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    signals = []
    if not (args.deaf and restarts == 0):
        signal.signal(signal.SIGUSR1, lambda *_: signals.append(time.monotonic()))
    fields = [f"{name}={os.environ.get(name)}" for name in NAMES]
    print("probe", *fields, f"host={socket.gethostname()}", f"restarts={restarts}", f"config={args.config}")
    if args.until_usr1 and restarts == 0:
        while not signals:
            time.sleep(0.05)
        time.sleep(0.5 * rank)  # ranks never leave at the same moment
        print("checkpointed", f"rank={rank}")
        return 75
    time.sleep(args.delays[rank % len(args.delays)])
    return args.statuses[rank % len(args.statuses)]


if __name__ == "__main__":
    sys.exit(main())
