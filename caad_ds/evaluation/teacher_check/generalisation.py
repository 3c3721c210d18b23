"""Why a teacher does not hear an attribute: it was trained too little, or it knows its training clips by heart."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caad_ds.evaluation.scoring.scores import wilson
from caad_ds.utils.text import read_text

HEARD, OVERFITTED, UNDERTRAINED, UNKNOWN = "heard", "overfitted", "undertrained", "unknown"
# An attribute that is heard, but this much better on the training clips, is in part known by heart.
GAP = 0.1
# A validation loss that differs by less than this share has not moved.
MOVED = 0.02

REMEDIES = {
    OVERFITTED: (
        "It has learned its training clips, or their speakers, and not the attributes, so training it longer makes it "
        "worse. Train on more speakers and clips, stop earlier (the checkpoint with the lowest validation loss, "
        "`caad-ds export`), or train fewer weights (student.train: connector)."
    ),
    UNDERTRAINED: (
        "It does not know the clips that it was trained on either: train it further, with more steps or a higher "
        "learning rate. Where its training loss is low all the same, training asks other questions, or about other "
        "options, than this benchmark."
    ),
    UNKNOWN: (
        "These clips alone do not tell whether it was trained too little or has learned its training clips by heart. "
        "Give --train-benchmark, a benchmark of clips that it was trained on (`caad-ds prep conflict-benchmark` of the "
        "training manifest), or look at its run: train/ce low and validation/ce high or rising is overfitting, both "
        "high is too little training, both low means that the benchmark asks otherwise than training did."
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Heard:
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
        """Whether the accuracy is above always saying the commonest label, beyond its interval."""
        return self.interval[0] > self.commonest

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.accuracy:.1f}, 95% interval {100 * low:.1f} to {100 * high:.1f}"


def finding(here: Heard, training: Heard | None) -> str:
    """What became of one attribute, from the benchmark's clips and the training's where these were asked about."""
    if here.above_chance:
        return HEARD
    if training is None:
        return UNKNOWN
    if not training.above_chance:
        return UNDERTRAINED
    return OVERFITTED if gap(here, training)[0] > 0 else UNKNOWN


def gap(here: Heard, training: Heard) -> tuple[float, float]:
    """Newcombe's 95% interval of the accuracy on training clips minus that here.

    Source: Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.
    """
    difference = training.accuracy - here.accuracy
    (low, high), (training_low, training_high) = here.interval, training.interval
    below = math.hypot(training.accuracy - training_low, high - here.accuracy)
    above = math.hypot(training_high - training.accuracy, here.accuracy - low)
    return difference - below, difference + above


def comparison(here: Mapping[str, Heard], training: Mapping[str, Heard]) -> list[str]:
    """What the training clips say beside the benchmark's, a line for each attribute where that matters."""
    lines = []
    for name, ours in here.items():
        theirs = training.get(name)
        if theirs is None:
            continue
        both = f"{name}: {theirs} on {len(theirs.right)} training clips, {ours} here"
        low, high = gap(ours, theirs)
        apart = f"{100 * low:.1f} to {100 * high:.1f} points apart"
        found = finding(ours, theirs)
        if found == OVERFITTED:
            lines.append(f"{both}: overfitting, {apart}.")
        elif found == UNDERTRAINED:
            lines.append(f"{both}: no better than the commonest label on either: too little training.")
        elif found == UNKNOWN:
            lines.append(f"{both}: {apart}, too few clips to tell overfitting from too little training.")
        elif low > GAP:
            lines.append(f"{both}: heard, and in part known by heart, {apart}.")
    return lines


def advice(findings: Sequence[str]) -> str:
    """What to do about attributes that are not heard, by the findings about them."""
    return " ".join(REMEDIES[found] for found in (OVERFITTED, UNDERTRAINED, UNKNOWN) if found in findings)


def validation_losses(model: Path) -> dict[int, float]:
    """The validation loss by step that the checkpoints of a run recorded, for its model `RUN/model`; else none."""
    found = {}
    for state in model.resolve().parent.glob("checkpoints/step-*/state.json"):
        try:
            recorded = json.loads(read_text(state))["state"]
            loss = float(recorded["validation"]["loss"])
            if math.isfinite(loss):
                found[int(recorded["step"])] = loss
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged, or of a step without validation: it says nothing
    return dict(sorted(found.items()))


def course(losses: Mapping[int, float]) -> tuple[str, str] | None:
    """What the validation losses that are kept say of the run, and a finding; None where they say nothing."""
    if len(losses) < 2:
        return None
    (first, began), *_, (last, ended) = losses.items()
    best = min(losses, key=lambda step: losses[step])
    if ended > (1 + MOVED) * losses[best]:
        words = f"validation loss was lowest at step {best} ({losses[best]:.4f}) and rose to {ended:.4f} at step {last}"
        return f"Its run's {words}: overfitting.", OVERFITTED
    if ended < (1 - MOVED) * began and best == last:
        words = f"validation loss was still falling, {began:.4f} at step {first} and {ended:.4f} at step {last}"
        return f"Its run's {words}: too little training.", UNDERTRAINED
    return None
