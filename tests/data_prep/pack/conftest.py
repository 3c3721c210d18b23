"""The manifest that the readers of shards are tested with, too."""

from tests.data.conftest import manifest

__all__ = ["manifest"]
