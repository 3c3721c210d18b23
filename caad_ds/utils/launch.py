"""Which process of a launch this is, by the environment variables of the launcher."""

import os


def is_main() -> bool:
    """Return whether this is the process of its launch that prints, tracks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def is_alone() -> bool:
    """Return whether this process is the only one of its launch."""
    return os.environ.get("WORLD_SIZE", "1") == "1"
