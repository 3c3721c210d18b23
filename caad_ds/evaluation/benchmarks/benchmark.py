"""The interface of a benchmark.

`benchmark_kinds.py` detects the benchmark in a folder or a file. `result_kind` names the `ResultKind`
(evaluation/result_kinds/) that scores its answers, from run folders alone.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from caad_ds.evaluation.benchmarks.items import Item

PLAIN = "plain"  # the prompt form of every benchmark
CONDITIONS = ("neutral", "faithful", "adversarial", "irrelevant")  # hint: none, true, false, unrelated
HINTS = CONDITIONS[1:]


class Benchmark(Protocol):
    """Items, i.e. every row under each of `conditions`, and the rule by which an answer is right."""

    @property
    def kind(self) -> str:
        """The name in run folders; only runs of the same kind and contents are compared."""

    @property
    def result_kind(self) -> str:
        """The name of the `ResultKind` that scores it."""

    @property
    def setup(self) -> Mapping[str, str]:
        """Further settings of prompts and scores that are not at their default; part of `setup.json`."""

    @property
    def asked(self) -> str | None:
        """The form of its prompts, which results name; None if there is only one. The default is not in `setup`."""

    @property
    def conditions(self) -> Sequence[str | None]:
        """The conditions of each row; the first is without a hint."""

    @property
    def options(self) -> Mapping[str, list[str]]:
        """The possible answers of each subset; none for subsets whose questions have their own choices."""

    @property
    def rejected(self) -> list[dict]:
        """`{id, reason}` of rows that cannot be used."""

    @property
    def limited(self) -> bool:
        """Whether rows were left out by a limit."""

    @property
    def items(self) -> list[Item]:
        """All items; the conditions of a row are adjacent, and so are the rows of a subset."""

    def verdicts(self, item: Item, answer: str) -> dict:
        """Return whether an answer is right by each matching rule, and further inputs of its figures."""
