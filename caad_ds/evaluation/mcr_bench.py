"""MCR-BENCH (arXiv 2508.15407) as published, and any benchmark in its format.

    <folder>/<NAME>/<NAME>.json    a list of rows: audio, gt, neutral, faithful, adversarial, irrelevant, text
    <folder>/<NAME>/audio/         the clips

`neutral` is the question, the next three are descriptions that precede it; `text`, the transcription, is optional.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caad_ds.errors import UserError
from caad_ds.evaluation.matching import words

CONDITIONS = ("neutral", "faithful", "adversarial", "irrelevant")
HINTS = CONDITIONS[1:]


@dataclass(frozen=True)
class Item:
    """One clip under one condition: `hint` is the description that precedes the question, None when neutral."""

    id: str
    subset: str
    condition: str
    audio: Path
    question: str
    hint: str | None
    gt: str
    transcription: str


@dataclass(frozen=True)
class Row:
    """One benchmark row, `<NAME>/<index>`, with its hint per condition (None when neutral)."""

    id: str
    subset: str
    audio: Path
    question: str
    hints: dict[str, str | None]
    gt: str
    transcription: str

    def items(self) -> Iterator[Item]:
        """The row under each of the four conditions."""
        for condition, hint in self.hints.items():
            yield Item(self.id, self.subset, condition, self.audio, self.question, hint, self.gt, self.transcription)


@dataclass(frozen=True)
class Benchmark:
    """The usable rows, the answers each subset knows, and a reason for every row that cannot be used."""

    rows: list[Row]
    options: dict[str, list[str]]
    rejected: list[dict]

    @staticmethod
    def load(folder: str | Path, limit: int | None = None) -> "Benchmark":
        """Reads a folder; `limit` keeps the first usable rows of each subset.

        `options` holds the distinct ground truths of a subset, before the limit. Raises UserError when the folder
        holds no subset, a subset's file is not a JSON list, or no row can be used.
        """
        rows, options, rejected = [], {}, []
        for path in _subset_files(Path(folder)):
            found, bad = _read_subset(path)
            options[path.stem] = sorted({row.gt for row in found})
            rows += found[:limit]
            rejected += bad
        if not rows:
            reason = rejected[0]["reason"] if rejected else "every list is empty"
            raise UserError(f"{folder}: none of its {len(rejected)} rows can be used ({reason}); mend the files")
        return Benchmark(rows, options, rejected)


def _subset_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that holds <NAME>/<NAME>.json")
    files = sorted(path for path in folder.glob("*/*.json") if path.stem == path.parent.name)
    if not files:
        raise UserError(f"{folder}: no <NAME>/<NAME>.json in it; give the folder of an MCR-BENCH benchmark")
    return files


def _read_subset(path: Path) -> tuple[list[Row], list[dict]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(entries, list):
        raise UserError(f"{path}: holds a {type(entries).__name__}, not a list of rows; restore the file")
    rows, rejected = [], []
    for index, entry in enumerate(entries):
        name = f"{path.stem}/{index}"
        reason = _fault(entry)
        audio = None if reason else _audio_path(path.parent, entry["audio"])
        if audio is None:
            reason = reason or f"audio {entry['audio']} is not in {path.parent / 'audio'}"
            rejected.append({"id": name, "reason": reason})
        else:
            rows.append(_row(name, path.stem, audio, entry))
    return rows, rejected


def _fault(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, not an object"
    for field in ("audio", "gt", *CONDITIONS):
        value = entry.get(field)
        if not isinstance(value, str) or not value.strip():
            return f"{field} is missing, empty or not a string"
    if not words(entry["gt"]):
        return f"gt {entry['gt']!r} has no word left after normalisation"
    if not isinstance(entry.get("text") or "", str):
        return "text is not a string"
    return None


def _audio_path(folder: Path, audio: str) -> Path | None:
    """The clip relative to `<NAME>/audio`, `<NAME>` or the benchmark's folder, whichever holds it."""
    candidates = (base / audio for base in (folder / "audio", folder, folder.parent))
    return next((path for path in candidates if path.is_file()), None)


def _row(name: str, subset: str, audio: Path, entry: dict) -> Row:
    hints = {"neutral": None, **{condition: entry[condition].strip() for condition in HINTS}}
    return Row(name, subset, audio, entry["neutral"].strip(), hints, entry["gt"].strip(), entry.get("text") or "")
