"""What commands share: how they end, and how a user's mistake is told in one line."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable

from caad_ds.errors import RankError, UserError

ROWS_REJECTED = 3
INTERRUPTED = 130


def is_main() -> bool:
    """Whether this process is the one of its launch that prints, tracks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def is_alone() -> bool:
    """Whether this process is the only one of its launch."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def guarded(command: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command and return its status; a UserError gives 2 on every rank, and is printed by the main one.

    A RankError is printed by all. The traceback is shown with `args.debug` alone. What is no user's mistake keeps its
    traceback; on one rank of several it gives 2 as well, which is what the others end with.
    """
    try:
        return command(args)
    except UserError as error:
        if args.debug:
            traceback.print_exc()
        elif is_main() or isinstance(error, RankError):
            print(f"caad-ds: error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        if is_alone():
            raise
        traceback.print_exc()
        return 2
