"""Accuracy of instances, of dimensions and overall: for Dynamic-SUPERB."""

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb_scores import ALL, OUTSIDE, score_instances
from caad_ds.evaluation.benchmarks.dynamic_superb.instance_names import closest, dimensions
from caad_ds.evaluation.scoring.scores import RULES, judged_by
from caad_ds.evaluation.tables_and_plots.tables import percent, with_interval

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
        """See `ResultKind`."""
        return "Dynamic-SUPERB"

    def score(self, runs: list[list[dict]], complete: bool, rule: str = RULES[0]) -> dict:
        """See `ResultKind`."""
        return score_instances(judged_by(rule, runs), complete=complete)

    def items(self, scores: dict) -> int:
        """See `ResultKind`."""
        return sum(instance["items"] for instance in scores["instances"].values())

    def rows(self, scores: dict) -> tuple[list[str], list[list[str]]]:
        """See `ResultKind`: a row per instance and per dimension, then all."""
        rows = []
        for dimension, mean in scores["dimensions"].items():
            members = {i: s for i, s in scores["instances"].items() if s["dimension"] == dimension.split(" ")[0]}
            rows += [_line(f"  {instance}", str(one["items"]), one) for instance, one in members.items()]
            rows.append(_line(dimension, str(sum(one["items"] for one in members.values())), mean))
        rows += [
            _line(f"  {i}", str(scores["instances"][i]["items"]), scores["instances"][i]) for i in scores["unknown"]
        ]
        if "value" in scores["overall"]:
            rows.append(_line(scores["overall"]["name"], "", scores["overall"]))
        return ["instance or dimension", "items", *RULES], rows

    def notes(self, scores: dict) -> list[str]:
        """See `ResultKind`."""
        known = dimensions()
        counted = len(known) - Counter(known.values())[OUTSIDE]
        own = "as the authors'" if scores["overall"]["name"] == ALL else "not the authors' figure, which is"
        notes = [f"{scores['overall']['name']}: {own} over all rows of all {counted} instances outside {OUTSIDE}."]
        if scores["missing"]:
            notes.append(f"{len(scores['missing'])} of {len(dimensions())} instances are missing (all in scores.json).")
        if scores["unknown"]:
            names = [f"{name} (is it {like}?)" if (like := closest(name)) else name for name in scores["unknown"]]
            notes.append(f"In no mean, because no dimension is known to hold them: {', '.join(names)}.")
        return notes

    def headline(self, scores: dict) -> dict[str, dict]:
        """See `ResultKind`."""
        return {**scores["dimensions"], scores["overall"]["name"]: scores["overall"]}

    def compare(self, runs: "Runs", baseline: str, title: str) -> "Comparison":
        """See `ResultKind`."""
        from caad_ds.evaluation.comparison.dynamic_superb_dimensions import compare_dimensions  # imports Matplotlib

        return compare_dimensions(runs.systems, baseline, title, runs.complete)


def _line(name: str, items: str, scores: dict) -> list[str]:
    return [name, items, with_interval(scores), *(percent(scores[rule]["value"]) for rule in RULES[1:])]
