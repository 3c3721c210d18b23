"""User-facing errors."""


class UserError(Exception):
    """A user's mistake: the message says what is wrong, where, and what to do, in one line.

    The console script and `train.py` print it and exit with status 2; `--debug` shows the traceback.
    """


class RankError(UserError):
    """What every rank tells for itself: it has lost the others, and may be the only one that is left to speak."""


class AudioError(Exception):
    """An audio that does not decode, or holds nothing usable; callers add which record it belongs to."""
