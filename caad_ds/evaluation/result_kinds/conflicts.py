"""Accuracy under each condition, and the effect of the false hint: for MCR-BENCH and benchmarks in its format."""

from typing import ClassVar

from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.scoring.bootstrap_scores import DEFINITIONS, POOLED, RULES, judged_by, score_groups
from caad_ds.evaluation.tables_and_plots.tables import LEGEND, MAIN, SUBSET_LEGEND, scores_rows


class Conflicts:
    """`groups`: metrics of each subset and of all items together (scoring/bootstrap_scores.py)."""

    conditions = CONDITIONS
    definitions = DEFINITIONS
    by_option = True
    reads: ClassVar[tuple[str, ...]] = ()

    def title(self, kind: str) -> str:
        """See `ResultKind`."""
        return "Accuracy when audio and text disagree"

    def score(self, runs: list[list[dict]], complete: bool, rule: str = RULES[0]) -> dict:
        """See `ResultKind`."""
        return {"groups": score_groups(judged_by(rule, runs))}

    def items(self, scores: dict) -> int:
        """See `ResultKind`."""
        return scores["groups"][POOLED]["items"]

    def rows(self, scores: dict) -> tuple[list[str], list[list[str]]]:
        """See `ResultKind`."""
        return scores_rows(scores["groups"])

    def notes(self, scores: dict) -> list[str]:
        """See `ResultKind`."""
        return [LEGEND, SUBSET_LEGEND]

    def headline(self, scores: dict) -> dict[str, dict]:
        """See `ResultKind`."""
        pooled = scores["groups"][POOLED]
        return {name: pooled[key] for name, key in {**MAIN, "MRS": "mrs"}.items()}
