"""MCR-BENCH (arXiv 2508.15407) as published, and any benchmark in its format.

    <folder>/<NAME>/<NAME>.json    a list of rows: audio, gt, neutral, faithful, adversarial, irrelevant, text
    <folder>/<NAME>/audio/         the clips

`neutral` is the question, the next three are descriptions that precede it; `text`, the transcription, is optional. A
further key that all rows have is a column and is not read; one that some have is taken for an unknown condition.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from caad_ds.data.markers import AUDIO, user_content
from caad_ds.errors import UserError
from caad_ds.evaluation.items import Clip, Item, is_text
from caad_ds.evaluation.matching import words
from caad_ds.text import read_text

CONDITIONS = ("neutral", "faithful", "adversarial", "irrelevant")
HINTS = CONDITIONS[1:]
FIELDS = ("id", "audio", "gt", "text", "condition", "conditions", *CONDITIONS)


@dataclass(frozen=True)
class Row:
    """One benchmark row, `<NAME>/<index>`, with its hint per condition (None when neutral)."""

    id: str
    subset: str
    clip: Clip
    question: str
    hints: dict[str, str | None]
    gt: str

    def items(self) -> Iterator[Item]:
        """The row under each of the four conditions."""
        for condition, hint in self.hints.items():
            turn = {"role": "user", "content": user_content(self.question, hint)}
            yield Item(self.id, self.subset, condition, (self.clip,), (turn,), self.question, self.gt, hint)


@dataclass(frozen=True)
class Benchmark:
    """The usable rows, the answers each subset knows, and a reason for every row that cannot be used."""

    rows: list[Row]
    options: dict[str, list[str]]
    rejected: list[dict]

    kind: ClassVar[str] = "mcr-bench"
    conditions: ClassVar[tuple[str, ...]] = CONDITIONS

    @property
    def items(self) -> list[Item]:
        """Every row under every condition."""
        return [item for row in self.rows for item in row.items()]

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder looks like this benchmark."""
        return bool(_subset_files(folder))

    @staticmethod
    def load(folder: str | Path, limit: int | None = None) -> "Benchmark":
        """Reads a folder; `limit` keeps the first usable rows of each subset.

        `options` holds the distinct ground truths of a subset, before the limit. A subset whose file cannot be read is
        rejected as a whole. UserError when the folder holds no subset, or no row can be used.
        """
        rows, options, rejected = [], {}, []
        files = _subset_files(Path(folder))
        if not files:
            raise UserError(f"{folder}: no <NAME>/<NAME>.json in it; give the folder of an MCR-BENCH benchmark")
        for path in files:
            found, bad = _read_subset(path)
            options[path.stem] = sorted({row.gt for row in found})
            rows += found[:limit]
            rejected += bad
        if not rows:
            reason = rejected[0]["reason"] if rejected else "every list is empty"
            raise UserError(f"{folder}: nothing in it can be used ({len(rejected)} rejected; {reason}); mend the files")
        return Benchmark(rows, options, rejected)


def _subset_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*.json") if path.stem == path.parent.name)


def _read_subset(path: Path) -> tuple[list[Row], list[dict]]:
    try:
        entries = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        return [], [{"id": path.stem, "reason": f"{path}: cannot be read as JSON ({error})"}]
    if not isinstance(entries, list):
        return [], [{"id": path.stem, "reason": f"{path}: holds a {type(entries).__name__}, not a list of rows"}]
    keys = [set(entry) for entry in entries if isinstance(entry, dict)]
    known = {*FIELDS, *(set.intersection(*keys) if len(keys) > 1 else ())}  # a further column, if all rows have it
    first: dict[str, int] = {}
    rows, rejected = [], []
    for index, entry in enumerate(entries):
        name = f"{path.stem}/{index}"
        reason = _fault(entry, known) or _double(entry, index, first)
        audio = None if reason else _audio_path(path.parent, entry["audio"])
        if audio is None:
            reason = reason or f"audio {entry['audio']} is not in {path.parent / 'audio'}"
            rejected.append({"id": name, "reason": reason})
        else:
            rows.append(_row(name, path.stem, audio, entry))
    return rows, rejected


def _fault(entry: object, known: set[str]) -> str | None:
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, not an object"
    if not is_text(entry):
        return "holds half of a surrogate pair, which is no character"
    if unknown := _unknown_conditions(entry, known):
        return f"unknown condition {', '.join(unknown)}; the conditions are {', '.join(CONDITIONS)}"
    for field in ("audio", "gt", *CONDITIONS):
        value = entry.get(field)
        if not isinstance(value, str) or not value.strip():
            return f"{field} is missing, empty or not a string"
    if not words(entry["gt"]):
        return f"gt {entry['gt']!r} has no word left after normalisation"
    if not isinstance(entry.get("text") or "", str):
        return "text is not a string"
    marked = [field for field in CONDITIONS if AUDIO in entry[field]]
    return f"{marked[0]} holds {AUDIO}, which stands for an audio: remove it" if marked else None


def _unknown_conditions(entry: dict, known: set[str]) -> list[str]:
    """Keys that are not known, and names under `condition` or `conditions` that are no condition."""
    listed = [entry.get("condition") or [], entry.get("conditions") or []]
    named = [name for value in listed for name in (value if isinstance(value, list) else [value])]
    keys = [key for key in entry if key not in known]
    return [repr(name) for name in keys + named if name not in CONDITIONS]


def _double(entry: dict, index: int, first: dict[str, int]) -> str | None:
    """Why a row with an `id` cannot be told from an earlier one."""
    name = entry.get("id")
    if name is None or first.setdefault(str(name), index) == index:
        return None
    return f"id {name!r} is that of row {first[str(name)]}"


def _audio_path(folder: Path, audio: str) -> Path | None:
    """The clip relative to `<NAME>/audio`, `<NAME>` or the benchmark's folder, whichever holds it."""
    candidates = (base / audio for base in (folder / "audio", folder, folder.parent))
    return next((path for path in candidates if os.path.isfile(path)), None)  # too long a name raises in Path


def _row(name: str, subset: str, audio: Path, entry: dict) -> Row:
    hints = {"neutral": None, **{condition: entry[condition].strip() for condition in HINTS}}
    clip = Clip(audio, entry.get("text") or "")
    return Row(name, subset, clip, entry["neutral"].strip(), hints, entry["gt"].strip())
