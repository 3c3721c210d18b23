"""Interface of a kind of results: its scores and its tables.

Everything is computed from run folders, so `compare` does not need the benchmark; how systems are compared is in
`comparison/compare.py`, by kind.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from caad_ds.evaluation.benchmarks.benchmark_kinds import KINDS
from caad_ds.evaluation.result_kinds.conflicts import Conflicts
from caad_ds.evaluation.result_kinds.dynamic_superb import Instances
from caad_ds.evaluation.result_kinds.group_metrics import OF_ANSWERS, OF_YES_NO
from caad_ds.utils.errors import UserError

Table = tuple[list[str], list[list[str]]]


class ResultKind(Protocol):
    """A kind of results; `score` returns its own part of `scores.json`."""

    @property
    def conditions(self) -> tuple[str | None, ...]:
        """The conditions of each item."""

    @property
    def definitions(self) -> dict[str, str]:
        """Definitions of metrics with ambiguous names."""

    @property
    def by_option(self) -> bool:
        """Whether to tabulate which option was named instead of the right one."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of a prediction that it reads besides the verdicts."""

    def title(self, kind: str) -> str:
        """Return the title of a comparison of runs on a benchmark of that kind."""

    def score(self, runs: list[list[dict]], complete: bool, rule: str = ...) -> dict:
        """Return the metrics with intervals of one or several runs; `complete`: they cover every row of the benchmark.

        `rule` decides which answers are right, by default the first one.
        """

    def items(self, scores: dict) -> int:
        """Return the number of scored items; raises LookupError, TypeError or AttributeError for other scores."""

    def rows(self, scores: dict) -> Table:
        """Return header and rows of the table of one system."""

    def notes(self, scores: dict) -> list[str]:
        """Return the notes on these rows."""

    def headline(self, scores: dict) -> dict[str, dict]:
        """Return the main metrics of an evaluation, by name, each with its interval."""


RESULT_KINDS: dict[str, ResultKind] = {
    "conflicts": Conflicts(),
    "instances": Instances(),
    "accuracy": OF_ANSWERS,
    "yes_no": OF_YES_NO,
}
OLDEST = "mcr-bench"  # the benchmark of setups that name none


def result_kind_of(setup: Mapping[str, Any]) -> ResultKind:
    """Return the `ResultKind` of a run folder by its setup; raises UserError if a newer version wrote it."""
    kind = KINDS.get(setup.get("benchmark", OLDEST)) or KINDS[OLDEST]
    name = setup.get("figures", kind.result_kind)
    if name not in RESULT_KINDS:
        raise UserError(f"setup.json has figures {name!r}, which are none of {', '.join(RESULT_KINDS)}; update caad-ds")
    return RESULT_KINDS[name]
