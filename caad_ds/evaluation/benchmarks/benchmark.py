"""What evaluation needs of a benchmark.

`kinds.py` finds the benchmark in a folder or a file; what its answers come to is the `Figures` that `figures` names
(evaluation/figures/), which run folders alone are enough for.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from caad_ds.evaluation.benchmarks.items import Item

PLAIN = "plain"  # the way of asking that every benchmark has
CONDITIONS = ("neutral", "faithful", "adversarial", "irrelevant")  # of benchmarks with hints: none, true, false, idle
HINTS = CONDITIONS[1:]


class Benchmark(Protocol):
    """Items, every row under every one of `conditions`, and the rule by which an answer to them is right."""

    @property
    def kind(self) -> str:
        """What run folders call it: runs are compared that have it, and their contents, in common."""

    @property
    def figures(self) -> str:
        """The name of what its answers come to."""

    @property
    def setup(self) -> Mapping[str, str]:
        """What else decides its prompts and figures, as far as that is not the kind's own way; part of `setup.json`."""

    @property
    def conditions(self) -> Sequence[str | None]:
        """Under which each row is asked; the first is without a hint."""

    @property
    def options(self) -> Mapping[str, list[str]]:
        """The answers that each subset knows; not of a subset whose questions differ in their choices."""

    @property
    def rejected(self) -> list[dict]:
        """An `{id, reason}` for what cannot be asked."""

    @property
    def limited(self) -> bool:
        """Whether rows were left out."""

    @property
    def items(self) -> list[Item]:
        """The conditions of a row one after the other, rows of a subset together."""

    def verdicts(self, item: Item, answer: str) -> dict:
        """Whether an answer is right by each rule of matching, and what else its figures are made of."""
