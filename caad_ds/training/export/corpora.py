"""The corpora that a run is trained on: counted by the records' `source`, saved as `corpora.json` in its folder."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from caad_ds.utils.files import read_json, write_json
from caad_ds.utils.text import is_text

FILE = "corpora.json"
UNNAMED = ""  # records whose `source` is not text


class Corpora(dict[str, tuple[int, float]]):
    """Map corpora to (samples, seconds of audio)."""

    def count(self, record: Mapping[str, Any], seconds: float) -> None:
        """Add a sample."""
        source = record.get("source")
        self._add(source if isinstance(source, str) and is_text(source) else UNNAMED, 1, seconds)

    @classmethod
    def merged(cls, corpora: "Iterable[Corpora]") -> "Corpora":
        """Sum the corpora of all ranks, by name."""
        whole = cls()
        for name, (samples, seconds) in sorted(item for part in corpora for item in part.items()):
            whole._add(name, samples, seconds)
        return whole

    def _add(self, name: str, samples: int, seconds: float) -> None:
        before = self.get(name, (0, 0.0))
        self[name] = before[0] + samples, before[1] + seconds


def write_corpora(folder: Path, read: Iterable[tuple[Path, Corpora]]) -> None:
    """Write the corpora of each folder of shards to a run's folder."""
    if by_folder := {str(shards): corpora for shards, corpora in read}:  # a stream has none
        write_json(folder / FILE, by_folder)


def read_corpora(folder: Path, shards: str) -> Corpora | None:
    """Read the corpora of a folder of shards from a run's folder; None if the run did not count them."""
    if not (folder / FILE).is_file():
        return None
    corpora = read_json(folder / FILE, "remove it, and the model's card names no corpora").get(shards)
    return None if corpora is None else Corpora({name: (count, seconds) for name, (count, seconds) in corpora.items()})
