"""Accuracy of all items and of each group; for yes-no questions also metrics that expose a system that always agrees.

For benchmarks without conditions, i.e. those of a description.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from caad_ds.evaluation.scoring.bootstrap_scores import POOLED, RULES, judged_by, score_groups
from caad_ds.evaluation.scoring.metric_definitions import ACCURACY, YES_NO, Metrics
from caad_ds.evaluation.tables_and_plots.tables import percent

BY_RULE = "strict: answers that name the right option alone; lenient: the same, also in other spellings of numbers."
OF_NO = (
    'yes: share of answers "yes"; precision, recall and F1 are of the class "no", as published: an answer that says '
    'neither counts as a "no" that is wrong.'
)


@dataclass(frozen=True)
class GroupMetrics:
    """`groups`: `metrics` of each group and of all items together.

    `shown` maps the table's labels to metrics, `legend` explains the labels.
    """

    metrics: Metrics
    shown: Mapping[str, str]
    legend: tuple[str, ...] = ()
    definitions: dict[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()

    conditions = (None,)
    by_option = True

    def title(self, kind: str) -> str:
        """See `ResultKind`."""
        return kind

    def score(self, runs: list[list[dict]], complete: bool, rule: str = RULES[0]) -> dict:
        """See `ResultKind`."""
        return {"groups": score_groups(judged_by(rule, runs), metrics=self.metrics.by(rule == RULES[0]))}

    def items(self, scores: dict) -> int:
        """See `ResultKind`."""
        return scores["groups"][POOLED]["items"]

    def rows(self, scores: dict) -> tuple[list[str], list[list[str]]]:
        """See `ResultKind`."""
        groups = scores["groups"]
        rows = []
        for name in [*(name for name in groups if name != POOLED), POOLED]:
            cells = self._cells(groups[name])
            rows.append([name, str(groups[name]["items"]), *(percent(cell["value"]) for cell in cells)])
        rows += [[bound, "", *(percent(cell[bound]) for cell in cells)] for bound in ("low", "high")]
        return ["group", "items", *self.shown, *RULES[1:]], rows

    def notes(self, scores: dict) -> list[str]:
        """See `ResultKind`."""
        return [*self.legend, BY_RULE]

    def headline(self, scores: dict) -> dict[str, dict]:
        """See `ResultKind`."""
        return {label: scores["groups"][POOLED][key] for label, key in self.shown.items()}

    def _cells(self, group: dict) -> list[dict]:
        return [group[key] for key in self.shown.values()] + [group[rule]["accuracy"] for rule in RULES[1:]]


OF_ANSWERS = GroupMetrics(ACCURACY, {"accuracy": "accuracy"})
OF_YES_NO = GroupMetrics(
    YES_NO,
    {"accuracy": "accuracy", "yes": "yes_share", "precision": "precision_no", "recall": "recall_no", "F1": "f1_no"},
    (OF_NO,),
    {
        "precision_no": 'right answers to questions whose answer is "no" / answers that do not say "yes"',
        "recall_no": 'right answers to questions whose answer is "no" / such questions',
        "f1_no": "harmonic mean of precision_no and recall_no",
    },
    ("said",),
)
