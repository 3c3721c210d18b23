"""What packed records hold, counted in bounded memory: values of attributes, kinds of prompts, lengths of answers."""

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
JOINERS = "\u200c\u200d"  # unprintable, and part of words and emoji
ANSWERS = ("kind", "condition", "attribute")  # what is counted of a prompt

Value = str | float


class Tally:
    """How often each value came: the first `MAX_VALUES` different ones by themselves, the rest as `others`."""

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
        """Add what another one counted."""
        for value, count in tally.counts.items():
            self.add(value, count)
        self.others += tally.others

    @property
    def total(self) -> int:
        """How many values came."""
        return self.counts.total() + self.others


@dataclass
class Contents:
    """Tallies over records: `answers` by source, kind, condition and asked attribute, `attributes` by their name in the
    metadata, `words` per answer, and how many values there were of attributes beyond `MAX_ATTRIBUTES`."""

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
        """Add what others hold."""
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
    """A value as one line of valid Unicode, cut after so many characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text[: 4 * characters].encode(errors="replace").decode()  # a lone surrogate cannot be written
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() or letter in JOINERS else " " for letter in text)
    text = " ".join(text.split())
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _value(value: object) -> Value:
    """Numbers to three digits, so that those of a measured attribute are few; anything else as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(f"{value:.3g}")
        except OverflowError:  # an integer beyond floating point
            pass
    return shown(value)
