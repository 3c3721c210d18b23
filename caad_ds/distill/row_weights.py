"""Weights of the distillation term of each answer row, by what the audio says of its token."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.data.batch import Batch
from caad_ds.distill.signal import TeacherStates
from caad_ds.loss.head import LMHead
from caad_ds.loss.teacher_scalars import log_ratio, teacher_scalars
from caad_ds.models.shared_vocabulary import SharedVocabulary


class AudioAdvantage:
    """The audio advantage of each row as its weight: `objective.row_weight: audio_advantage`.

        A_n = log p_pos(y_n) - log p_neg(y_n), clipped to [0, cap];  a_n = A_n / mean of A over the global batch

    p are the teacher's distributions at temperature 1, y the answer. Where no row of a global batch has an advantage
    all weigh alike. Source: the idea of VA-OPD (arXiv 2605.21924), with audio for images.
    """

    def __init__(self, objective: ObjectiveSection, shared: SharedVocabulary | None = None):
        self.objective, self.shared = objective, shared

    @classmethod
    def of(cls, objective: ObjectiveSection, shared: SharedVocabulary | None = None) -> "AudioAdvantage | None":
        """What a run's objective asks for."""
        return cls(objective, shared) if objective.row_weight == "audio_advantage" else None

    def weighed(self, signals: Sequence[tuple[Batch, TeacherStates]], head: LMHead) -> list[TeacherStates]:
        """The states of a window's batches, with the rows' weights; every rank calls it, once for a global batch.

        The head is the teacher's.
        """
        found = [self._advantage(batch, states, head) for batch, states in signals]
        sums = torch.stack([
            torch.stack([each.double().sum() for each in found]).sum(),
            torch.tensor(float(sum(map(len, found))), dtype=torch.float64, device=found[0].device),
        ])  # fmt: skip
        if dist.is_initialized():
            dist.all_reduce(sums)
        total, count = sums
        out = []
        for (_, states), each in zip(signals, found, strict=True):
            # NaN stays: the step is left out.
            weights = torch.where(total == 0, 1.0, each.double() * count / total).float()
            out.append(replace(states, kd_weights=weights, advantage=each))
        return out

    def _advantage(self, batch: Batch, states: TeacherStates, head: LMHead) -> Tensor:
        """A_n of the rows of a batch, float32 [N]."""
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
