"""Summarize many faults in few lines: counts by kind, some examples, and the file that lists all."""

import re
from collections import Counter, defaultdict
from pathlib import Path

EXAMPLES = 20  # at most this many are listed
KINDS = 10
VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S*")  # quoted texts, and paths
DETAIL = re.compile(r"[,;(]\s?")


class Faults:
    """Collects named faults; of many only counts and examples are kept."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = defaultdict(list)

    def add(self, name: str, reason: str) -> None:
        """Count a fault."""
        kind = kind_of(reason)
        self.kinds[kind] += 1
        if (len(self._examples) < KINDS or kind in self._examples) and len(self._examples[kind]) < EXAMPLES:
            self._examples[kind].append(f"{name}: {reason}")

    def lines(self, title: str, file: Path) -> list[str]:
        """Return lines with number, title and file, the number of each kind, and EXAMPLES examples of frequent ones."""
        total, shown = self.kinds.total(), self.kinds.most_common(KINDS)
        lines = [f"{total} {title} (all in {file}):"]
        lines += [f"  {count} {kind}" for kind, count in shown]
        if others := total - sum(count for _, count in shown):
            lines.append(f"  {others} of {len(self.kinds) - KINDS} other kinds")
        each = max(1, EXAMPLES // len(self._examples))
        examples = [f"  {text}" for kind, _ in shown for text in self._examples.get(kind, [])[:each]]
        return [*lines, "for example:", *examples]


def kind_of(reason: object) -> str:
    """Strip a reason of its details, and of names, paths and numbers that differ each time."""
    words = VARIABLE.sub("…", str(reason)).split()
    kind = " ".join("#" if any(map(str.isdigit, word)) else word for word in words)
    return DETAIL.split(kind, maxsplit=1)[0][:100].strip() or kind[:100]
