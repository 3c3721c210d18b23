"""Training as a command, as a launcher's script and as a function."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.training.processes.launched_command import on_ranks
from caad_ds.utils.command import Parser, guarded
from caad_ds.utils.files import sole_writer
from caad_ds.utils.launch import is_main
from caad_ds.utils.progress import Heartbeat
from caad_ds.utils.quiet_libraries import quiet

if TYPE_CHECKING:
    import torch

DESCRIPTION = "The training entry: `deepspeed caad_ds/train.py --config FILE`, or one process with plain python."


def train(config: Config) -> Path | None:
    """Train with a configuration in this process, like `caad-ds train`.

    Prints progress, and resumes an interrupted run. Call it from the main thread. Under a launcher's
    variables (`RANK`, `WORLD_SIZE`, ...) this process is one of its ranks.

    Args:
        config: from `load_config`, or built from its sections.

    Returns:
        The folder of the trained model; None if SIGUSR1 ended the run after a checkpoint.

    Raises:
        UserError: a path in the configuration does not exist, or the run is not possible as configured.
    """
    with _process_restored():
        quiet()
        status = _train(lambda: config, config.run.name)
    return None if status else config.run.output_dir / "model"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    parser.add_argument("--config", required=True, help="the run's YAML; see configs/, and caad-ds config for its keys")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=c", help="override keys of the YAML"
    )
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # given by DeepSpeed's launcher


def run(args: argparse.Namespace) -> int:
    """Train as the config says; returns the exit status (75: checkpointed on SIGUSR1, run again)."""
    return _train(lambda: load_config(args.config, args.set), args.config)


def main(argv: list[str] | None = None) -> int:
    """Parse, run, and turn a user error into one line and exit status 2."""
    quiet()
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(prog="train.py", description=DESCRIPTION)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    register(parser)
    return guarded(lambda: run(parser.parse_args(argv)), debug="--debug" in argv)


def _train(read: Callable[[], Config], title: str) -> int:
    """Train with the configuration that `read` returns; until then `title` replaces the run's name."""
    return on_ranks(read, title, _run)


def _run(cfg: Config, device: "torch.device", heartbeat: Heartbeat) -> int:
    from caad_ds.training.trainer import Trainer
    from caad_ds.utils.ranks import agreed

    with ExitStack() as held:
        heartbeat.set_activity(lambda: f"waiting for {cfg.run.output_dir}, which another process is writing")
        agreed(lambda: held.enter_context(sole_writer(cfg.run.output_dir.resolve())) if is_main() else None)
        with Trainer(cfg, device, heartbeat) as trainer:
            return trainer.run()


@contextmanager
def _process_restored() -> Iterator[None]:
    """Restore environment and signals: variables of a single rank, and a handler that would hold the run's memory."""
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGUSR1)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, handler)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
