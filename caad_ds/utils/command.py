"""Shared parts of commands: parsing, exit status, and one-line messages for user errors."""

import argparse
import difflib
import math
import os
import re
import select
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TextIO

from caad_ds.utils.errors import RankError, UserError
from caad_ds.utils.launch import is_alone, is_main

ROWS_REJECTED = 3
INTERRUPTED = 130
PIPE_CLOSED = 141  # a shell's status of a process that SIGPIPE ended


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one-line UserErrors that name the command's help."""

    def error(self, message: str) -> NoReturn:
        """Raise the UserError; for an unknown option it names the nearest one, for a word too many what is taken.

        argparse names a value's kind by its function ("invalid _megabytes value"), here without the underscores.
        """
        message = re.sub(r"invalid _?(\w+) value", lambda kind: f"invalid {kind[1].replace('_', ' ')} value", message)
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = (
            difflib.get_close_matches(unknown[1], re.findall(r"--[\w-]+", self.format_help()), n=1) if unknown else []
        )
        hint = f" (did you mean {near[0]}?)" if near else ""
        if re.match("unrecognized arguments: [^-]", message):
            hint = self._takes()
        raise UserError(f"{message}{hint}; see {self.prog} --help")

    def _takes(self) -> str:
        """Say which words a command takes besides its options, such as one CONFIG; "" if it takes any number."""
        actions = self._get_positional_actions()
        if any(action.nargs not in (None, "?") for action in actions):
            return ""
        words = " and ".join(f"one {action.metavar or action.dest}" for action in actions)
        return f" (it takes {words or 'options alone'})"


def note(text: str) -> None:
    """Print a note on stderr, apart from a command's output."""
    print(f"caad-ds: {text}", file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """Parse an argument that is an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def above_0(text: str) -> float:
    """Parse an argument that is a number above 0."""
    return _within(text, lambda value: 0 < value < math.inf, "is no number above 0")


def share(text: str) -> float:
    """Parse an argument that is a number above 0 and at most 1."""
    return _within(text, lambda value: 0 < value <= 1, "is no share above 0 and at most 1")


def _within(text: str, holds: Callable[[float], bool], otherwise: str) -> float:
    value = float(text)
    if not holds(value):
        raise argparse.ArgumentTypeError(f"{text} {otherwise}")
    return value


def guarded(command: Callable[[], int], debug: bool = False) -> int:
    """Run a command and return its status; a UserError gives 2 on every rank, and is printed by the main one.

    A RankError is printed by all ranks. Tracebacks of both are shown only with `debug`. Other errors keep their
    traceback; on one rank of several they also give 2, the status of the other ranks. If the reader of the output has
    closed it, as in `caad-ds --help | head`, the command silently ends with 141.
    """
    try:
        try:
            return _guarded(command, debug)
        finally:
            if sys.stdout is not None:  # closed by `>&-`
                sys.stdout.flush()  # flush here, where a closed pipe can be handled
    except BrokenPipeError:
        if not (closed := _unread_streams()):
            raise  # not the output's pipe
        for stream in closed:  # discard what Python writes at exit
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
    """Return the output streams that are pipes without a reader."""
    return [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]


def _has_no_reader(stream: TextIO | None) -> bool:
    if stream is None:
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # not a file of the operating system, or closed
        return False
