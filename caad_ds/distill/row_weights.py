"""Weights of each answer row's distillation term, by how much the audio supports its token."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.data.batch import Batch
from caad_ds.distill.teacher_signal import TeacherStates
from caad_ds.loss.head import LMHead
from caad_ds.loss.teacher_scalars import log_ratio, teacher_scalars
from caad_ds.models.shared_vocabulary import SharedVocabulary


class AudioAdvantage:
    """The audio advantage of each row as its weight: `objective.row_weight: audio_advantage`.

        A_n = log p_pos(y_n) - log p_neg(y_n), clipped to [0, cap];  a_n = A_n / mean of A over the global batch

    p are the teacher's distributions at temperature 1, y the answer. If no row of a global batch has an advantage,
    all weights are 1. Source: the idea of VA-OPD (arXiv 2605.21924), with audio for images.
    """

    def __init__(self, objective: ObjectiveSection, shared: SharedVocabulary | None = None):
        self.objective, self.shared = objective, shared

    @classmethod
    def of(cls, objective: ObjectiveSection, shared: SharedVocabulary | None = None) -> "AudioAdvantage | None":
        """Build it from a run's objective; None if rows are not weighted."""
        return cls(objective, shared) if objective.row_weight == "audio_advantage" else None

    def weighed(self, signals: Sequence[tuple[Batch, TeacherStates]], head: LMHead) -> list[TeacherStates]:
        """Add the rows' weights to the states of a window's batches; every rank calls it, once per global batch.

        `head` is the teacher's.
        """
        advantages = [self._advantage(batch, states, head) for batch, states in signals]
        sums = torch.stack([
            torch.stack([advantage.double().sum() for advantage in advantages]).sum(),
            torch.tensor(float(sum(map(len, advantages))), dtype=torch.float64, device=advantages[0].device),
        ])  # fmt: skip
        if dist.is_initialized():
            dist.all_reduce(sums)
        total, count = sums
        out = []
        for (_, states), advantage in zip(signals, advantages, strict=True):
            # NaN stays: the step is skipped.
            weights = torch.where(total == 0, 1.0, advantage.double() * count / total).float()
            out.append(replace(states, kd_weights=weights, advantage=advantage))
        return out

    def _advantage(self, batch: Batch, states: TeacherStates, head: LMHead) -> Tensor:
        """Compute A_n of the rows of a batch, float32 [N]."""
        advantage = states.advantage
        if not len(batch.targets):
            return states.positive.new_zeros(0, dtype=torch.float32)
        if advantage is None:
            labels, vocabulary = batch.targets, None
            if self.shared is not None:
                _, head, labels, vocabulary = self.shared.applied(head, head, labels)
            assert states.negative is not None, "no second path: the configuration gives one"
            advantage = log_ratio(teacher_scalars(states.positive, states.negative, head, labels, vocabulary))
        return advantage.clamp(0, self.objective.row_weight_cap)
