"""Runs a script of this folder from the command line."""

import sys
from collections.abc import Callable
from inspect import BoundArguments, signature
from pathlib import Path
from typing import NoReturn

from caad_ds.utils.command import Parser, guarded


def run(main: Callable[..., object]) -> NoReturn:
    """Call `main` with what the command line gives for its parameters; a mistake is one line and exit status 2."""
    parser = Parser(prog=f"python -m examples.api.{Path(sys.argv[0]).stem}", description=main.__doc__)
    parameters = signature(main)
    for each in parameters.parameters.values():
        name = each.name if each.default is each.empty else f"--{each.name}"
        parser.add_argument(name, nargs="+" if each.kind is each.VAR_POSITIONAL else None)

    def called() -> int:
        given = BoundArguments(parameters, vars(parser.parse_args()))  # type: ignore[arg-type]
        main(*given.args, **given.kwargs)
        return 0

    sys.exit(guarded(called))
