"""MCR-BENCH (arXiv 2508.15407) as published, and any benchmark in its format.

    <folder>/<NAME>/<NAME>.json    a list of rows: audio, gt, neutral, faithful, adversarial, irrelevant, text
    <folder>/<NAME>/audio/         the clips

`neutral` is the question, the next three are descriptions that precede it; `text`, the transcription, and `metadata`,
an object, are optional. A further key of all rows is a metadata column; one of some rows is rejected as an unknown
condition.

The CAAD authors' form, a JSONL manifest with a line per condition, is read by `mcr_manifest.py`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar
from unicodedata import normalize

from caad_ds.data.audio_markers import AUDIO, user_content
from caad_ds.evaluation.benchmarks import audio_files, mcr_manifest, prompt_manifest
from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS, HINTS, PLAIN
from caad_ds.evaluation.benchmarks.items import Clip, Item, text_of
from caad_ds.evaluation.scoring.matching import verdicts
from caad_ds.evaluation.scoring.normalization import words
from caad_ds.utils.errors import UserError
from caad_ds.utils.text import each_once, is_text, read_text

CATEGORY = "MCR"  # prefix of categories in a manifest
WRAPPED = "wrapped"
OWN = "the manifest's own"
# The prompt of a public runner (docs/benchmarks.md); the authors publish none.
WRAPPER = """\
The following text provides descriptions derived from audio content. This information may be accurate, inaccurate, or \
irrelevant. Answer the question with discretion regarding how you use these details.
Description: {description}
Question: {question}"""
FIELDS = ("id", "audio", "gt", "text", "metadata", "condition", "conditions", *CONDITIONS)


@dataclass(frozen=True)
class Row:
    """One benchmark row, `<NAME>/<index>`, with its hint per condition (None when neutral).

    `turns` holds the messages of each condition if the file has them; else they are built from question and hint.
    `metadata` describes the clip, such as its speaker, and is not part of the prompt. `prompt`, PLAIN or WRAPPED, is
    the form in which a hint precedes the question.
    """

    id: str
    subset: str
    clip: Clip
    question: str
    hints: dict[str, str | None]
    gt: str
    turns: Mapping[str, Sequence[dict]] | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    prompt: str = PLAIN

    def items(self) -> Iterator[Item]:
        """Yield the row's item for each of the four conditions."""
        for condition, hint in self.hints.items():
            turns = self.turns[condition] if self.turns else [self._turn(hint)]
            yield Item(self.id, self.subset, condition, (self.clip,), turns, self.question, self.gt, hint)

    def _turn(self, hint: str | None) -> dict:
        if hint is not None and self.prompt == WRAPPED:
            wrapped = WRAPPER.format(description=hint, question=self.question)
            return {"role": "user", "content": user_content(wrapped)}
        return {"role": "user", "content": user_content(self.question, hint)}


@dataclass(frozen=True)
class Benchmark:
    """The usable rows, the possible answers of each subset, and a reason for every rejected row."""

    rows: list[Row]
    options: dict[str, list[str]]
    rejected: list[dict]
    limited: bool = False  # rows were left out by a limit
    prompt: str = PLAIN

    kind: ClassVar[str] = "mcr-bench"
    result_kind: ClassVar[str] = "conflicts"
    prompts: ClassVar[tuple[str, ...]] = (PLAIN, WRAPPED)
    conditions: ClassVar[tuple[str, ...]] = CONDITIONS

    @property
    def setup(self) -> Mapping[str, str]:
        """The prompt, if it is not the plain one."""
        return {} if self.prompt == PLAIN else {"prompt": self.prompt}

    @property
    def asked(self) -> str:
        """The form in which a hint precedes the question; a manifest has prompts of its own."""
        return OWN if any(row.turns for row in self.rows) else self.prompt

    @property
    def items(self) -> list[Item]:
        """Every row under every condition."""
        return [item for row in self.rows for item in row.items()]

    def verdicts(self, item: Item, answer: str) -> dict[str, bool]:
        """Return whether an answer is right by each matching rule."""
        return verdicts(answer, item.gt, self.options[item.subset], item.question)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Return whether a folder, or a JSONL file, looks like this benchmark."""
        return bool(_subset_files(folder)) or CATEGORY in prompt_manifest.benchmarks_in(folder)

    @staticmethod
    def load(folder: str | Path, limit: int | None = None, prompt: str = PLAIN) -> "Benchmark":
        """Read a folder, or a JSONL file; `limit` keeps the first usable rows of each subset.

        `prompt` is one of `prompts`. `options` holds the distinct ground truths of a subset, before the limit. A
        subset with an unreadable file is rejected as a whole. Raises UserError if no subset or no row can be used.
        """
        folder = Path(folder)
        files = _subset_files(folder)
        in_manifest = bool(prompt_manifest.manifests(folder)) and (
            not files or CATEGORY in prompt_manifest.benchmarks_in(folder)
        )
        if not files and not in_manifest:
            raise UserError(f"{folder}: no <NAME>/<NAME>.json in it; give the folder of an MCR-BENCH benchmark")
        if files and in_manifest:
            raise UserError(f"{folder}: has <NAME>/<NAME>.json and *.jsonl; give the JSONL file, or move one of them")
        if in_manifest and prompt != PLAIN:
            raise UserError(f"--prompt {prompt}: {folder} is a manifest, which has prompts of its own; leave it out")
        subsets = [_of_manifest(folder)] if in_manifest else map(_read_subset, files)
        rows, rejected = [], []
        for found, bad in subsets:
            rows += found
            rejected += bad
        rejected += [] if in_manifest else _misnamed(folder)
        if not rows:
            reason = rejected[0]["reason"] if rejected else "every list is empty"
            raise UserError(f"{folder}: nothing in it can be used ({len(rejected)} rejected; {reason}); fix the files")
        names = dict.fromkeys([path.stem for path in files] + [row.subset for row in rows])
        by_subset = {name: [row for row in rows if row.subset == name] for name in names}
        options = {name: sorted({row.gt for row in members}) for name, members in by_subset.items()}
        kept = [replace(row, prompt=prompt) for members in by_subset.values() for row in members[:limit]]
        return Benchmark(kept, options, rejected, limited=len(kept) < len(rows), prompt=prompt)


def _subset_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*.json") if path.stem == path.parent.name)


def _misnamed(folder: Path) -> list[dict]:
    """Return subsets whose file is slightly misnamed, such as `ser.json` or `SER (1).json` in SER."""
    found = []
    for subset in sorted(path for path in folder.iterdir() if path.is_dir()):
        name, files = f"{subset.name}.json", sorted(path.name for path in subset.glob("*.json"))
        alike = [other for other in files if _spelling(other).startswith(_spelling(subset.name))]
        if alike and name not in files:
            found.append(
                {"id": subset.name, "reason": f"{subset} has {', '.join(alike)} and no {name}; rename the file"}
            )
    return found


def _spelling(name: str) -> str:
    return normalize("NFC", name).casefold()


def _of_manifest(path: Path) -> tuple[list[Row], list[dict]]:
    joined, rejected = mcr_manifest.read(path, CATEGORY, CONDITIONS)
    rows = []
    for name, subset, lines in joined:
        plain = lines["neutral"]
        hints = {condition: mcr_manifest.hint(lines[condition].question, plain.question) for condition in CONDITIONS}
        turns = {condition: lines[condition].messages for condition in CONDITIONS}
        rows.append(Row(name, subset, plain.clips[0], plain.question, hints, plain.label, turns))
    return rows, rejected


def _read_subset(path: Path) -> tuple[list[Row], list[dict]]:
    try:
        entries = json.loads(read_text(path), object_pairs_hook=_object)
    except (OSError, ValueError, RecursionError) as error:
        return [], [{"id": path.stem, "reason": f"{path}: cannot be read as JSON ({error})"}]
    if not isinstance(entries, list):
        return [], [{"id": path.stem, "reason": f"{path}: holds a {type(entries).__name__}, not a list of rows"}]
    keys = [set(entry) for entry in entries if isinstance(entry, dict)]
    known = {*FIELDS, *(set.intersection(*keys) if len(keys) > 1 else ())}  # metadata columns: keys that all rows have
    first: dict[str, int] = {}
    rows, rejected = [], []
    for index, entry in enumerate(entries):
        name = f"{path.stem}/{index}"
        reason = _fault(entry, known) or _duplicate(entry, index, first)
        audio = None if reason else _audio_path(path.parent, entry["audio"])
        if audio is None:
            reason = reason or f"audio {entry['audio']} is not in {path.parent / 'audio'}"
            rejected.append({"id": name, "reason": reason})
        else:
            rows.append(_row(name, path.stem, audio, entry))
    return rows, rejected


def _object(pairs: list[tuple[str, object]]) -> dict | ValueError:
    """Return a row, or the error, so that the other rows are still read."""
    try:
        return each_once(pairs)
    except ValueError as error:
        return error


def _fault(entry: object, known: set[str]) -> str | None:
    if isinstance(entry, ValueError):
        return str(entry)
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, not an object"
    if not is_text(entry):
        return "holds half of a surrogate pair, which is no character"
    if unknown := _unknown_conditions(entry, known):
        return f"unknown condition {', '.join(unknown)}; the conditions are {', '.join(CONDITIONS)}"
    for name in ("audio", *CONDITIONS):
        value = entry.get(name)
        if not isinstance(value, str) or not value.strip():
            return f"{name} is missing, empty or not a string"
    if (gt := text_of(entry.get("gt"))) is None:
        return "gt is missing, empty, or no text or number"
    if not words(gt):
        return f"gt {gt!r} has no word left after normalisation"
    if not isinstance(entry.get("text") or "", str):
        return "text is not a string"
    if not isinstance(entry.get("metadata") or {}, dict):
        return "metadata is not an object"
    marked = [name for name in CONDITIONS if AUDIO in entry[name]]
    return f"{marked[0]} holds {AUDIO}, which stands for an audio: remove it" if marked else None


def _unknown_conditions(entry: dict, known: set[str]) -> list[str]:
    """Return unknown keys, and names under `condition` or `conditions` that are no condition."""
    listed = [entry.get("condition") or [], entry.get("conditions") or []]
    named = [name for value in listed for name in (value if isinstance(value, list) else [value])]
    keys = [key for key in entry if key not in known]
    return [repr(name) for name in keys + named if name not in CONDITIONS]


def _duplicate(entry: dict, index: int, first: dict[str, int]) -> str | None:
    """Return the message for a row whose `id` is that of an earlier one, or None."""
    name = entry.get("id")
    if name is None or first.setdefault(str(name), index) == index:
        return None
    return f"id {name!r} is that of row {first[str(name)]}"


def _audio_path(folder: Path, audio: str) -> Path | None:
    """Find the clip in `<NAME>/audio`, `<NAME>` or the benchmark's folder."""
    return audio_files.find(audio, folder / "audio", folder, folder.parent)


def _row(name: str, subset: str, audio: Path, entry: dict) -> Row:
    hints = {"neutral": None, **{condition: entry[condition].strip() for condition in HINTS}}
    clip = Clip(audio, entry.get("text") or "")
    metadata = {key: value for key, value in entry.items() if key not in FIELDS} | (entry.get("metadata") or {})
    return Row(name, subset, clip, entry["neutral"].strip(), hints, text_of(entry["gt"]) or "", metadata=metadata)
