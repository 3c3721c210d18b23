"""Errors that a user can mend."""


class UserError(Exception):
    """A user's mistake: the message says what is wrong, where, and what to do, in one line.

    The console script and `train.py` print it and exit with status 2; `--debug` shows the traceback.
    """
