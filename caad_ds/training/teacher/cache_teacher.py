"""`caad-ds cache-teacher`: fill a teacher cache ahead of training, by any number of ranks or tasks of an array job."""

import argparse
from typing import TYPE_CHECKING

from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.training.processes.launched_command import on_ranks
from caad_ds.utils.array_task import Part
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.progress import Heartbeat

if TYPE_CHECKING:
    import torch


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cache-teacher`."""
    parser.add_argument("--config", required=True, help="the YAML of the training that reads it, with teacher.cache")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=c", help="override keys of the YAML"
    )
    parser.add_argument(
        "--shard", type=Part.parse, default=Part(0, 1), metavar="I/N", help="fill part I of N, beside the others"
    )
    parser.add_argument("--batch", type=positive, default=8, help="samples per rank and forward (default %(default)s)")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # given by DeepSpeed's launcher


def run(args: argparse.Namespace) -> int:
    """Fill the cache; returns the exit status."""

    def fill(cfg: Config, device: "torch.device", heartbeat: Heartbeat) -> int:
        from caad_ds.training.teacher.cache_filling import CacheFilling

        with CacheFilling(cfg, device, heartbeat, args.shard) as filling:
            filling.run(args.batch)
        return 0

    return on_ranks(lambda: to_fill(load_config(args.config, args.set)), args.config, fill)


def to_fill(cfg: Config) -> Config:
    """The configuration of a training with its cache to be filled; UserError where it has none that can be."""
    if cfg.teacher is None or cfg.teacher.cache is None:
        raise UserError("teacher.cache is missing: say where the cache is to be with teacher.cache.path")
    if cfg.data.reader == "stream":
        raise UserError("data.reader stream has no list of samples to go through: let the training fill the cache")
    cache = cfg.teacher.cache.model_copy(update={"fill": True, "when_full": "stop"})
    return cfg.model_copy(update={"teacher": cfg.teacher.model_copy(update={"cache": cache})})
