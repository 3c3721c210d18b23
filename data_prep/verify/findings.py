"""The findings of `prep verify` in a folder of shards."""

from dataclasses import dataclass, field

import numpy as np

from caad_ds.data.shard_index import ShardIndex
from data_prep.verify.contents import Contents, Tally
from data_prep.verify.disjoint import Values
from data_prep.verify.duplicates import Duplicates, find_duplicates
from data_prep.verify.held_out import HeldOut


@dataclass
class Findings:
    """Faults of a folder, one line each, and the statistics for the overview."""

    index: ShardIndex
    held_out: HeldOut
    faults: list[str] = field(default_factory=list)
    contents: Contents = field(default_factory=Contents)
    reasons: Tally = field(default_factory=Tally)
    values: Values = field(default_factory=Values)
    duplicates: Duplicates = field(default_factory=lambda: find_duplicates(np.empty(0, np.int64), b""))
