"""Why a teacher fails on an attribute: undertrained, or overfitted to its training clips."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caad_ds.evaluation.scoring.bootstrap_scores import wilson
from caad_ds.utils.text import read_text

HEARD, OVERFITTED, UNDERTRAINED, UNKNOWN = "heard", "overfitted", "undertrained", "unknown"
# An attribute that is this much better on the training clips is partly memorised.
GAP = 0.1
# Relative change below which a validation loss counts as unchanged.
UNCHANGED = 0.02

REMEDIES = {
    OVERFITTED: (
        "It has learned its training clips, or their speakers, and not the attributes, so training it longer makes it "
        "worse. Train on more speakers and clips, stop earlier (the checkpoint with the lowest validation loss, "
        "`caad-ds export`), or train fewer weights (student.train: connector)."
    ),
    UNDERTRAINED: (
        "It does not know the clips that it was trained on either: train it further, with more steps or a higher "
        "learning rate. Where its training loss is low nevertheless, training asks other questions, or about other "
        "options, than this benchmark."
    ),
    UNKNOWN: (
        "These clips alone do not tell whether it was trained too little or has memorised its training clips. "
        "Give --train-benchmark, a benchmark of clips that it was trained on (`caad-ds prep conflict-benchmark` of the "
        "training manifest), or look at its run: train/ce low and validation/ce high or rising is overfitting, both "
        "high is too little training, both low means that the benchmark and the training ask different questions."
    ),
}  # fmt: skip


@dataclass(frozen=True)
class NeutralAnswers:
    """Neutral answers about one attribute: whether each is right, and the share of the commonest label."""

    right: np.ndarray
    commonest: float

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy."""
        return wilson(self.accuracy, len(self.right))

    @property
    def above_chance(self) -> bool:
        """Whether the lower bound of the accuracy is above the share of the commonest label."""
        return self.interval[0] > self.commonest

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.accuracy:.1f}, 95% interval {100 * low:.1f} to {100 * high:.1f}"


def finding(here: NeutralAnswers, training: NeutralAnswers | None) -> str:
    """Classify one attribute from the answers about the benchmark's clips and, if known, about training clips."""
    if here.above_chance:
        return HEARD
    if training is None:
        return UNKNOWN
    if not training.above_chance:
        return UNDERTRAINED
    return OVERFITTED if gap(here, training)[0] > 0 else UNKNOWN


def gap(here: NeutralAnswers, training: NeutralAnswers) -> tuple[float, float]:
    """Return Newcombe's 95% interval of the accuracy on training clips minus that here.

    Source: Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.
    """
    difference = training.accuracy - here.accuracy
    (low, high), (training_low, training_high) = here.interval, training.interval
    below = math.hypot(training.accuracy - training_low, high - here.accuracy)
    above = math.hypot(training_high - training.accuracy, here.accuracy - low)
    return difference - below, difference + above


def comparison(here: Mapping[str, NeutralAnswers], training: Mapping[str, NeutralAnswers]) -> list[str]:
    """Compare training clips with the benchmark's: a line per attribute with a relevant difference."""
    lines = []
    for name, answers in here.items():
        trained = training.get(name)
        if trained is None:
            continue
        both = f"{name}: {trained} on {len(trained.right)} training clips, {answers} here"
        low, high = gap(answers, trained)
        apart = f"{100 * low:.1f} to {100 * high:.1f} points apart"
        found = finding(answers, trained)
        if found == OVERFITTED:
            lines.append(f"{both}: overfitting, {apart}.")
        elif found == UNDERTRAINED:
            lines.append(f"{both}: no better than the commonest label on either: too little training.")
        elif found == UNKNOWN:
            lines.append(f"{both}: {apart}, too few clips to tell overfitting from too little training.")
        elif low > GAP:
            lines.append(f"{both}: heard, and in part memorised, {apart}.")
    return lines


def advice(findings: Sequence[str]) -> str:
    """Return what to do about attributes that the teacher fails on, by their findings."""
    return " ".join(REMEDIES[found] for found in (OVERFITTED, UNDERTRAINED, UNKNOWN) if found in findings)


def validation_losses(model: Path) -> dict[int, float]:
    """Return the validation loss by step from the checkpoints of the run of a model `RUN/model`; else none."""
    found = {}
    for state in model.resolve().parent.glob("checkpoints/step-*/state.json"):
        try:
            recorded = json.loads(read_text(state))["state"]
            loss = float(recorded["validation"]["loss"])
            if math.isfinite(loss):
                found[int(recorded["step"])] = loss
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged, or of a step without validation
    return dict(sorted(found.items()))


def loss_trend(losses: Mapping[int, float]) -> tuple[str, str] | None:
    """Describe the trend of a run's validation losses, and return its finding; None if inconclusive."""
    if len(losses) < 2:
        return None
    (first, first_loss), *_, (last, last_loss) = losses.items()
    best = min(losses, key=lambda step: losses[step])
    if last_loss > (1 + UNCHANGED) * losses[best]:
        words = (
            f"validation loss was lowest at step {best} ({losses[best]:.4f}) and rose to {last_loss:.4f} at step {last}"
        )
        return f"Its run's {words}: overfitting.", OVERFITTED
    if last_loss < (1 - UNCHANGED) * first_loss and best == last:
        words = (
            f"validation loss was still falling, {first_loss:.4f} at step {first} and {last_loss:.4f} at step {last}"
        )
        return f"Its run's {words}: too little training.", UNDERTRAINED
    return None
