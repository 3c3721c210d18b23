"""The student with its loss: the one module of the student's engine."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.data.batch import Batch
from caad_ds.loss import LMHead, LossOutput, contrastive_distillation_loss
from caad_ds.loss.hidden_states import hidden_state_loss, width_map
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.shared_vocabulary import SharedVocabulary

Timed = Callable[[str], AbstractContextManager]  # wraps a named part of the step


class StudentObjective(nn.Module):
    """Student and Stage 2 objective in one forward (method.md, L = lambda * L_CD + (1 - lambda) * L_GT).

    A trainable LM head that ZeRO-3 partitions can only be read inside the engine's forward, so the loss is in here.
    `part("loss")` wraps what the loss takes, its gradient included. `shared` are the tokens that teacher and student
    have in common. What of the student lies outside its engine is in here if it trains, and so is the map of its states
    to `teacher_width` where the objective compares hidden states; that begins from `seed`.
    """

    def __init__(
        self,
        student: AudioLM,
        objective: ObjectiveSection,
        part: Timed = nullcontext,
        shared: SharedVocabulary | None = None,
        teacher_width: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.part = part
        for name, module in student.beside().items():
            self.add_module(name, module)
        self.student = student.module
        self.lm = student
        self.objective = objective
        self.shared = shared
        self.width_map = None
        if objective.hidden_weight and teacher_width is not None:
            self.width_map = width_map(student.head().weight.shape[1], teacher_width, seed)

    def train(self, mode: bool = True) -> "StudentObjective":
        """Set the mode of what trains; what is frozen stays in evaluation."""
        super().train(mode)
        self.lm.freeze_running_parts()
        return self

    def forward(
        self,
        batch: Batch,
        teacher_pos: Tensor | None = None,
        teacher_neg: Tensor | None = None,
        teacher_head: LMHead | None = None,
        normalizer: float | None = None,
        row_alpha: Tensor | None = None,
        kd_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Loss, its terms kd and ce, and the diagnostics of a prepared batch; see `contrastive_distillation_loss`.

        The teacher's states [N, Ht] and head are None for objective `ce`. `row_alpha` [N] is each row's alpha, where it
        is known, `kd_weights` [N] a factor of its distillation term. A plain tuple, as ZeRO's hooks expect.
        """
        cfg = self.objective
        alpha: float | Tensor = cfg.alpha if row_alpha is None else row_alpha
        if not cfg.alpha:
            teacher_neg = None  # it was there for the rows' weights alone
        if self.lm.trains_tower_inside:
            with self.part("encoder"):
                batch = self.lm.heard(batch)
        hidden, path = self.lm.hidden_and_path(batch)
        head, labels = self.lm.head(), batch.targets
        vocabulary = None
        if teacher_head is not None and self.shared is not None:
            head, teacher_head, labels, vocabulary = self.shared.applied(head, teacher_head, labels)
        hidden_kd = self._hidden_states(hidden, batch, teacher_pos, teacher_neg, alpha, normalizer, kd_weights)
        if hidden_kd is not None:
            rest = 1 - cfg.hidden_weight
            wide = torch.promote_types(hidden.dtype, torch.float32)
            alike = hidden.new_full(hidden.shape[:1], rest, dtype=wide)
            kd_weights = alike if kd_weights is None else rest * kd_weights
        with self.part("loss"):
            out: LossOutput = contrastive_distillation_loss(
                hidden,
                head,
                teacher_pos,
                teacher_neg,
                teacher_head,
                labels,
                alpha=0.0 if teacher_neg is None else alpha,
                alpha_gate="none" if teacher_neg is None or row_alpha is not None else cfg.alpha_gate,
                gate_m=cfg.gate_m,
                temperature=cfg.temperature,
                kd_weight=cfg.share_of_kd,
                plausibility=cfg.plausibility,
                sharpen=cfg.sharpen,
                divergence=cfg.divergence,
                mix=cfg.mix,
                reduction=cfg.reduction,
                sample_of_row=batch.sample_of_row if cfg.reduction == "sample" else None,
                normalizer=normalizer,
                kd_token_weights=kd_weights,
                vocab_size=vocabulary,
                logits=cfg.logits,
            )
        # A path from the loss to weights that train, also where the connector alone trains and no sample hears its
        # audio: a loss that is not finite is noticed by its gradient (step.py). It adds 0 to both.
        loss, kd, diagnostics = out.loss + 0.0 * path, out.kd, out.diagnostics
        if hidden_kd is not None:
            term, total = hidden_kd
            term = cfg.hidden_weight * term
            loss, kd = loss + cfg.share_of_kd * term, kd + term.detach()
            diagnostics = diagnostics | {"hidden_distance": total}
        return loss, kd, out.ce, diagnostics

    def _hidden_states(
        self,
        hidden: Tensor,
        batch: Batch,
        teacher_pos: Tensor | None,
        teacher_neg: Tensor | None,
        alpha: float | Tensor,
        normalizer: float | None,
        kd_weights: Tensor | None,
    ) -> tuple[Tensor, Tensor] | None:
        """The term of hidden states and the sum of their distances; None where the objective has none."""
        cfg = self.objective
        if not cfg.hidden_weight or teacher_pos is None:
            return None
        with self.part("loss"):
            return hidden_state_loss(
                hidden if self.width_map is None else self.width_map(hidden),
                teacher_pos,
                teacher_neg,
                batch.targets,
                alpha=alpha,
                distance=cfg.hidden_distance,
                normalizer=normalizer,
                reduction=cfg.reduction,
                sample_of_row=batch.sample_of_row if cfg.reduction == "sample" else None,
                token_weights=kd_weights,
            )
