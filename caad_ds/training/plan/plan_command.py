"""`caad-ds plan`: estimate what a run needs before it is queued."""

import argparse
import json

from caad_ds.config.reading import load_config
from caad_ds.utils.command import above_0, positive, share
from caad_ds.utils.errors import UserError


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="the run's YAML; its teacher and data need not be there yet")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=c", help="override keys of the YAML"
    )
    parser.add_argument("--device", default="h100", metavar="NAME", help="h100 (default), h200, a100, l40s, ..., cpu")
    parser.add_argument("--nodes", type=positive, metavar="N", help="machines (default 1); with --gpus-per-node")
    parser.add_argument("--gpus-per-node", type=positive, metavar="M", help="ranks on each of them (default 1)")
    parser.add_argument(
        "--teacher", metavar="MODEL", help="architecture (.json), folder, hub id, or the YAML that trains the teacher"
    )
    parser.add_argument("--samples", type=positive, metavar="N", help="samples of data.train, where it is not there")
    parser.add_argument("--tokens", type=positive, metavar="T", help="mean tokens of a sample's text, with its answer")
    parser.add_argument("--answer-tokens", type=positive, metavar="A", help="those of the answer (default: 71%%)")
    parser.add_argument("--seconds", type=above_0, metavar="S", help="mean audio of a sample in seconds (default 10)")
    parser.add_argument("--mfu", type=share, metavar="X", help="share of the peak that is had (default 0.31)")
    parser.add_argument("--host-gb", type=above_0, metavar="GB", help="memory of a node (default 64 GiB per GPU)")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the plan; returns the exit status."""
    if args.nodes is not None and args.gpus_per_node is None:
        raise UserError(f"--nodes {args.nodes} needs --gpus-per-node: how many ranks each of them has")
    config = load_config(args.config, args.set)
    from caad_ds.training.plan.plan import plan
    from caad_ds.training.plan.plan_tables import show

    needs = plan(
        config,
        device=args.device.lower(),
        nodes=args.nodes or 1,
        gpus_per_node=args.gpus_per_node or 1,
        teacher=args.teacher,
        samples=args.samples,
        tokens=args.tokens,
        answer_tokens=args.answer_tokens,
        seconds=args.seconds,
        mfu=args.mfu,
        host_gb=args.host_gb,
    )
    if args.json:
        print(json.dumps(needs.as_dict(), indent=1))
    else:
        show(needs)
    return 0
