"""User-facing errors."""


class UserError(Exception):
    """A user error: its one-line message says what is wrong, where, and what to do.

    The console script and `train.py` print it and exit with status 2; `--debug` shows the traceback.
    """


class RankError(UserError):
    """An error that every rank prints itself: it has lost the others, and may be the last one running."""


class AudioError(Exception):
    """An audio that does not decode or is not usable; callers add its record."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; its type's name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
