"""Statistics of packed records in bounded memory: values of attributes, kinds of prompts, lengths of answers."""

import json
import math
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from caad_ds.data.record import Record
from caad_ds.utils.errors import UserError
from data_prep.common.prompt_metadata import PROMPT, prompt_of

MAX_VALUES = 1000
MAX_ATTRIBUTES = 100
MAX_CHARACTERS = 60
JOINERS = "\u200c\u200d"  # unprintable, but part of words and emoji
ANSWERS = ("kind", "condition", "attribute")  # fields of a prompt to count

Value = str | float


class Tally:
    """Counts by value: the first `MAX_VALUES` different ones individually, the rest as `others`."""

    def __init__(self) -> None:
        self.counts: Counter[Value] = Counter()
        self.others = 0

    def add(self, value: Value, count: int = 1) -> None:
        """Count a value."""
        if value in self.counts or len(self.counts) < MAX_VALUES:
            self.counts[value] += count
        else:
            self.others += count

    def merge(self, tally: "Tally") -> None:
        """Add the counts of another tally."""
        for value, count in tally.counts.items():
            self.add(value, count)
        self.others += tally.others

    @property
    def total(self) -> int:
        """Return the number of counted values."""
        return self.counts.total() + self.others


@dataclass
class Contents:
    """Tallies over records: `answers` by source, kind, condition and attribute of the question, `attributes` by
    metadata key, `words` per answer; `uncounted` values of attributes beyond `MAX_ATTRIBUTES`."""

    answers: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    attributes: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    words: array = field(default_factory=lambda: array("Q"))
    uncounted: int = 0

    def add(self, record: Record) -> None:
        """Count a record (docs/architecture.md)."""
        self.words.append(len((record.get("response") or "").split()))
        metadata = dict(record.get("metadata") or {})
        try:
            prompt = prompt_of(record)
        except UserError:  # shards of another tool may have an attribute of that name
            prompt = {}
        else:
            metadata.pop(PROMPT, None)
        for name, value in {"source": record.get("source"), **{key: prompt.get(key) for key in ANSWERS}}.items():
            if value is not None:
                self.answers[name].add(shown(value))
        for name, value in metadata.items():
            if value is None:
                continue
            if self._counted(name := shown(name)):
                self.attributes[name].add(_value(value))
            else:
                self.uncounted += 1

    def merge(self, contents: "Contents") -> None:
        """Add the tallies of other records."""
        self.words.extend(contents.words)
        self.uncounted += contents.uncounted
        for name, tally in contents.answers.items():
            self.answers[name].merge(tally)
        for name, tally in contents.attributes.items():
            if self._counted(name):
                self.attributes[name].merge(tally)
            else:
                self.uncounted += tally.total

    def _counted(self, name: str) -> bool:
        return name in self.attributes or len(self.attributes) < MAX_ATTRIBUTES


def shown(value: object, characters: int = MAX_CHARACTERS) -> str:
    """Format a value as one line of valid Unicode, truncated to `characters`."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text[: 4 * characters].encode(errors="replace").decode()  # a lone surrogate cannot be written
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() or letter in JOINERS else " " for letter in text)
    text = " ".join(text.split())
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _value(value: object) -> Value:
    """Round numbers to three digits, to limit the number of different ones; convert anything else to text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(f"{value:.3g}")
        except OverflowError:  # an integer beyond floating point
            pass
    return shown(value)
