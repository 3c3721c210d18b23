"""A summary of a results table in words."""

import json
from pathlib import Path

from caad_ds.utils.text import read_text

COMPARABLE_POINTS = 2.0


def ordering(evaluations: list[Path]) -> str:
    """Order the systems by adversarial accuracy and by shift; list students that are not comparable with the teacher.

    `evaluations` are run folders of `caad-ds evaluate`, the teacher's first. A student is comparable if its neutral
    accuracy is within 2 points of the teacher's: under- and overtrained students show effects of either sign.
    """
    scores = {}
    for folder in evaluations:
        content = json.loads(read_text(folder / "scores.json"))
        pooled = content["groups"]["all"]
        names = ("accuracy_neutral", "accuracy_adversarial", "shift")
        scores[content["name"]] = [100 * (pooled[name]["value"] or 0.0) for name in names]

    def ordered(column: int, reverse: bool) -> str:
        ranked = sorted(scores, key=lambda name: scores[name][column], reverse=reverse)
        return ", ".join(f"{name} {scores[name][column]:.1f}" for name in ranked)

    teacher, *students = scores
    gaps = [f"{name} {scores[name][0] - scores[teacher][0]:+.1f}" for name in students]
    far = [name for name in students if abs(scores[name][0] - scores[teacher][0]) > COMPARABLE_POINTS]
    lines = [
        f"adversarial accuracy, highest first: {ordered(1, reverse=True)}",
        f"shift (right answers lost to a false hint), lowest first: {ordered(2, reverse=False)}",
        f"neutral accuracy against the teacher's, in points: {', '.join(gaps)}",
    ]
    if far:
        lines.append(f"more than {COMPARABLE_POINTS:.0f} points apart, so not comparable: {', '.join(far)}")
    return "\n".join(lines)
