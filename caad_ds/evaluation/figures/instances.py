"""Accuracy of instances, of dimensions and overall: for Dynamic-SUPERB."""

from typing import TYPE_CHECKING, ClassVar

from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb_scores import (
    instances_notes,
    instances_rows,
    score_instances,
)
from caad_ds.evaluation.scoring.scores import RULES, judged_by

if TYPE_CHECKING:
    from caad_ds.evaluation.comparison.result import Comparison
    from caad_ds.evaluation.comparison.run_folders import Runs


class Instances:
    """`instances`, `dimensions`, `overall`, `missing`, `unknown`."""

    conditions = (None,)
    definitions: ClassVar[dict[str, str]] = {}
    by_option = False
    reads: ClassVar[tuple[str, ...]] = ()

    def title(self, kind: str) -> str:
        """See `Figures`."""
        return "Dynamic-SUPERB"

    def score(self, runs: list[list[dict]], complete: bool, rule: str = RULES[0]) -> dict:
        """See `Figures`."""
        return score_instances(judged_by(rule, runs), complete=complete)

    def items(self, scores: dict) -> int:
        """See `Figures`."""
        return sum(instance["items"] for instance in scores["instances"].values())

    def rows(self, scores: dict) -> tuple[list[str], list[list[str]]]:
        """See `Figures`."""
        return instances_rows(scores)

    def notes(self, scores: dict) -> list[str]:
        """See `Figures`."""
        return instances_notes(scores)

    def headline(self, scores: dict) -> dict[str, dict]:
        """See `Figures`."""
        return {**scores["dimensions"], scores["overall"]["name"]: scores["overall"]}

    def compare(self, runs: "Runs", baseline: str, title: str) -> "Comparison":
        """See `Figures`."""
        from caad_ds.evaluation.comparison.dynamic_superb_dimensions import compare_dimensions  # imports Matplotlib

        return compare_dimensions(runs.systems, baseline, title, runs.complete)
