"""What the answers to a benchmark come to: scores, tables, a comparison of systems.

All of it is made of run folders, so that `compare` needs no benchmark.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from caad_ds.evaluation.benchmarks.kinds import KINDS
from caad_ds.evaluation.figures.conflicts import Conflicts
from caad_ds.evaluation.figures.instances import Instances
from caad_ds.evaluation.figures.shares import OF_ANSWERS, OF_YES_NO
from caad_ds.utils.errors import UserError

if TYPE_CHECKING:
    from caad_ds.evaluation.comparison.result import Comparison
    from caad_ds.evaluation.comparison.run_folders import Runs

Table = tuple[list[str], list[list[str]]]


class Figures(Protocol):
    """A kind of figures; its `score` is what `scores.json` holds beside what all evaluations have."""

    @property
    def conditions(self) -> tuple[str | None, ...]:
        """Under which each item was asked."""

    @property
    def definitions(self) -> dict[str, str]:
        """Of figures that go by one name and mean two things."""

    @property
    def by_option(self) -> bool:
        """Whether it is of interest which option was named in another's place."""

    @property
    def reads(self) -> tuple[str, ...]:
        """What it reads of a prediction beside the verdicts."""

    def title(self, kind: str) -> str:
        """Of a comparison of runs on a benchmark of that kind."""

    def score(self, runs: list[list[dict]], complete: bool, rule: str = ...) -> dict:
        """Figures with intervals of one or several runs; `complete`: on every row of the benchmark.

        Right answers are those of `rule`, by default of the first one.
        """

    def items(self, scores: dict) -> int:
        """How many items were scored; LookupError, TypeError or AttributeError where these are no such scores."""

    def rows(self, scores: dict) -> Table:
        """Header and rows of the table of one system."""

    def notes(self, scores: dict) -> list[str]:
        """What to know beside these rows."""

    def headline(self, scores: dict) -> dict[str, dict]:
        """The figures that stand for an evaluation, by name, each with its interval."""

    def compare(self, runs: "Runs", baseline: str, title: str) -> "Comparison":
        """The systems beside each other, each tested against the baseline."""


FIGURES: dict[str, Figures] = {
    "conflicts": Conflicts(),
    "instances": Instances(),
    "accuracy": OF_ANSWERS,
    "yes_no": OF_YES_NO,
}
OLDEST = "mcr-bench"  # what setups name that name no benchmark


def figures_of(setup: Mapping[str, Any]) -> Figures:
    """Those of a run folder, by its setup; UserError where a newer version has made it."""
    kind = KINDS.get(setup.get("benchmark", OLDEST)) or KINDS[OLDEST]
    name = setup.get("figures", kind.figures)
    if name not in FIGURES:
        raise UserError(f"setup.json has figures {name!r}, which are none of {', '.join(FIGURES)}; update caad-ds")
    return FIGURES[name]
