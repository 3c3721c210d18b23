"""The section of a teacher cache."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from caad_ds.config.section import Section


class CacheSection(Section):
    """A cache of the teacher's hidden states on disk, so that it runs once for each sample."""

    path: Path = Field(..., description="folder of the cache, on a file system that all nodes share")
    form: Literal["pair", "contrast"] = Field(
        "pair", description="pair stores both paths, for any alpha; contrast their contrast, in half the space"
    )
    fill: bool = Field(
        True, description="store what is missing; false: never load the teacher, a sample without rows is an error"
    )
    when_full: Literal["stop", "continue"] = Field(
        "stop", description="if the disk is full: stop the run, or continue without storing more"
    )
