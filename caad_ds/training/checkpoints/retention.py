"""Which checkpoints of a run stay on disk."""

import math
from collections.abc import Mapping

from caad_ds.config.schema import HIGHER_IS_BETTER, CheckpointSection


def kept(section: CheckpointSection, steps: Mapping[int, Mapping[str, float]]) -> set[int]:
    """Return the steps whose checkpoints are kept: the newest, the best by a validation metric, and the milestones.

    `steps` holds the validation means at each checkpoint's step; one without the metric does not compete. On a tie the
    earlier step is better.
    """
    newest = sorted(steps)[-section.keep :]
    sign = -1 if section.best_metric in HIGHER_IS_BETTER else 1
    scores = {step: sign * means.get(section.best_metric, math.nan) for step, means in steps.items()}
    best = sorted((score, step) for step, score in scores.items() if math.isfinite(score))[: section.keep_best]
    milestones = [step for step in steps if section.milestone_every and step % section.milestone_every == 0]
    return {*newest, *(step for _, step in best), *milestones}
