"""Samples and weights that make a training's values not finite, put in before it begins (`prepare` of `launching.Run`).

`POISON` in the environment is KIND:ID,ID (all samples: KIND:*). Kinds: nan and inf, which become the audio features;
`loss`, infinite with a gradient that is finite; `gradient`, infinite with a loss that is finite; `state:STEP` spoils
the optimizer at that step, as broken memory would.
"""

import os

import torch

from caad_ds.distill.student_objective import StudentObjective
from caad_ds.models.reader import Reader


def poison() -> None:
    """Poison this process as POISON says."""
    kind, _, who = os.environ["POISON"].partition(":")
    if kind == "state":
        _spoil_state(int(who))
    elif kind in ("nan", "inf"):
        _spoil_features(float(kind), who)
    else:
        _spoil_objective(kind, who)


def _meant(keys: list[str], who: str) -> list[int]:
    return [n for n, key in enumerate(keys) if who == "*" or key in who.split(",")]


def _spoil_features(value: float, who: str) -> None:
    original = Reader.collate

    def poisoned(self, samples, **kwargs):
        batch = original(self, samples, **kwargs)
        for row in _meant(batch.keys, who):
            batch.audio["features"][batch.audio_index[row], 3, 5] = value  # one value; each tone is in one sample
        return batch

    Reader.collate = poisoned


def _spoil_objective(kind: str, who: str) -> None:
    original = StudentObjective.forward

    def forward(self, batch, *args, **kwargs):
        loss, kd, ce, diagnostics = original(self, batch, *args, **kwargs)
        answered = {row for row in batch.sample_of_row.tolist()}
        if answered & set(_meant(batch.keys, who)):
            if kind == "loss":
                return loss + float("inf"), kd, ce + float("inf"), diagnostics
            if loss.requires_grad:
                loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss, kd, ce, diagnostics

    StudentObjective.forward = forward


def _spoil_state(step: int) -> None:
    original, steps = torch.optim.AdamW.step, []

    def spoilt(self, closure=None):
        original(self, closure)
        steps.append(1)
        if len(steps) >= step:
            for state in self.state.values():
                state["exp_avg"].view(-1)[:1] = float("nan")

    torch.optim.AdamW.step = spoilt
