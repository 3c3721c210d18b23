"""What commands share: how they are parsed, how they end, and how a user's mistake becomes one line."""

import argparse
import difflib
import os
import re
import select
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TextIO

from caad_ds.utils.errors import RankError, UserError

ROWS_REJECTED = 3
INTERRUPTED = 130
PIPE_CLOSED = 141  # what a shell says of a process that SIGPIPE has ended


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a UserError of one line, which names the command's help."""

    def error(self, message: str) -> NoReturn:
        """Raise the UserError; for an option that is not known it names the nearest one."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = (
            difflib.get_close_matches(unknown[1], re.findall(r"--[\w-]+", self.format_help()), n=1) if unknown else []
        )
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"{message}{hint}; see {self.prog} --help")


def is_main() -> bool:
    """Whether this process is the one of its launch that prints, tracks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def is_alone() -> bool:
    """Whether this process is the only one of its launch."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def note(text: str) -> None:
    """Say something on stderr, beside what a command prints."""
    print(f"caad-ds: {text}", file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def guarded(command: Callable[[], int], debug: bool = False) -> int:
    """Run a command and return its status; a UserError gives 2 on every rank, and is printed by the main one.

    A RankError is printed by all. The traceback is shown with `debug` alone. What is no user's mistake keeps its
    traceback; on one rank of several it gives 2 as well, which is what the others end with. Where the reader of the
    output has gone, as in `caad-ds --help | head`, the command ends with 141 and says nothing.
    """
    try:
        try:
            return _guarded(command, debug)
        finally:
            if sys.stdout is not None:  # closed by `>&-`
                sys.stdout.flush()  # what is left is written here, where a closed pipe can be handled
    except BrokenPipeError:
        if not (closed := _unread_streams()):
            raise  # another pipe than the output
        for stream in closed:  # what Python writes as it ends goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return PIPE_CLOSED


def _guarded(command: Callable[[], int], debug: bool) -> int:
    try:
        return command()
    except UserError as error:
        if debug:
            traceback.print_exc()
        elif is_main() or isinstance(error, RankError):
            print(f"caad-ds: error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if is_alone() or (isinstance(error, BrokenPipeError) and _unread_streams()):
            raise
        traceback.print_exc()
        return 2


def _unread_streams() -> list[TextIO]:
    """The output streams that are pipes which nobody reads."""
    return [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]


def _has_no_reader(stream: TextIO | None) -> bool:
    if stream is None:
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # no file of the operating system, or closed
        return False
