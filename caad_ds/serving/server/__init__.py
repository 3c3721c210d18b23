"""The server of `caad-ds serve`; it needs the packages of the extra `serve`, except for `limits.py`."""
