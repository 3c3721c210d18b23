"""User-facing errors."""


class UserError(Exception):
    """A user error: its one-line message says what is wrong, where, and what to do.

    The console script and `train.py` print it and exit with status 2; `--debug` shows the traceback.
    """


class DiskFull(UserError):
    """No space is left on a disk, or in a user's share of it."""


class RankError(UserError):
    """An error that every rank prints itself: it has lost the others, and may be the last one running."""


class AudioError(Exception):
    """An audio that does not decode or is not usable; callers add its record."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop; its type's name if it has none.

    Of libsndfile's errors only the library's words: the file precedes them, for an open one its memory address.
    """
    text = str(getattr(error, "error_string", error)).strip()
    line = (text.splitlines() or [type(error).__name__])[0].rstrip()
    return line if line.endswith("..") else line.removesuffix(".")
