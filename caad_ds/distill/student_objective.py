"""The student with its loss: the module of the student's engine."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.data.batch import Batch
from caad_ds.distill.answer_rows import DrawnRows, LossRows, TeacherRows
from caad_ds.loss import LMHead, LossOutput, contrastive_distillation_loss
from caad_ds.loss.hidden_states import hidden_state_loss, width_map
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.shared_vocabulary import SharedVocabulary

Timed = Callable[[str], AbstractContextManager]  # times a named part of the step
STUDENT_SUMS = ("rows", "token_accuracy", "student_entropy")  # diagnostics on an answer that need no teacher


class StudentObjective(nn.Module):
    """Student and Stage 2 objective in one forward (method.md, L = lambda * L_CD + (1 - lambda) * L_GT).

    A trainable LM head that ZeRO-3 partitions can only be read inside the engine's forward, so the loss is in here.
    `part("loss")` times the loss, including its gradient. `shared` is the vocabulary that teacher and student share.
    Trainable modules beside the student's are in here too, and so is the projection of its states to `teacher_width`
    if the objective compares hidden states; `seed` initializes it.
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
        for name, module in student.extra_modules().items():
            self.add_module(name, module)
        self.student = student.module
        self.lm = student
        self.objective = objective
        self.shared = shared
        self.width_map = None
        if objective.hidden_weight and teacher_width is not None:
            self.width_map = width_map(student.head().weight.shape[1], teacher_width, seed)

    def train(self, mode: bool = True) -> "StudentObjective":
        """Set the mode of trainable parts; frozen ones stay in evaluation mode."""
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
        drawn: DrawnRows | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Compute loss, terms kd and ce, and diagnostics of a prepared batch; see `contrastive_distillation_loss`.

        The teacher's states [N, Ht] and head are None for objective `ce`. `row_alpha` [N] is each row's alpha if known,
        `kd_weights` [N] factors of the distillation terms. If answers were `drawn`, the teacher has states of only the
        first rows of the batch. Returns a plain tuple, as ZeRO's hooks expect.
        """
        cfg = self.objective
        if not cfg.alpha:
            teacher_neg = None  # it was needed only for the rows' weights
        if self.lm.trains_tower_inside:
            with self.part("encoder"):
                batch = self.lm.with_tower_states(batch)
        hidden, path = self.lm.hidden_and_path(batch)
        head, labels, vocabulary = self.lm.head(), batch.targets, None
        if teacher_head is not None and self.shared is not None:
            head, teacher_head, labels, vocabulary = self.shared.applied(head, teacher_head, labels)
        distilled = len(hidden if teacher_pos is None else teacher_pos)
        sample = batch.sample_of_row if cfg.reduction == "sample" else None
        states = TeacherRows(teacher_pos, teacher_neg, row_alpha, kd_weights)
        hidden_kd = None
        if cfg.hidden_weight and teacher_pos is not None:
            over = normalizer if drawn is None else drawn.normalizer
            of_rows = hidden[:distilled], batch.targets[:distilled], None if sample is None else sample[:distilled]
            hidden_kd = self._hidden_states(*of_rows, states, over)
            rest = 1 - cfg.hidden_weight
            wide = torch.promote_types(hidden.dtype, torch.float32)
            alike = hidden.new_full((distilled,), rest, dtype=wide)
            states = replace(states, kd_weights=alike if kd_weights is None else rest * kd_weights)
        rows = LossRows(hidden, head, labels, sample, teacher_head, vocabulary, states)
        with self.part("loss"):
            if drawn is None:
                out = self._loss(cfg, rows, normalizer)
            else:
                out = self._loss_of_drawn(rows, normalizer, drawn)
        # A path from the loss to trainable weights, even if only the connector trains and no sample has audio: a loss
        # that is not finite is noticed by its gradient (step.py). It adds 0 to both.
        loss, kd, diagnostics = out.loss + 0.0 * path, out.kd, out.diagnostics
        if hidden_kd is not None:
            term, total = hidden_kd
            term = cfg.hidden_weight * term
            loss, kd = loss + cfg.share_of_kd * term, kd + term.detach()
            diagnostics = diagnostics | {"hidden_distance": total}
        return loss, kd, out.ce, diagnostics

    def _loss(self, cfg: ObjectiveSection, rows: LossRows, normalizer: float | None) -> LossOutput:
        teacher = rows.teacher
        alpha: float | Tensor = cfg.alpha if teacher.alpha is None else teacher.alpha
        return contrastive_distillation_loss(
            rows.hidden,
            rows.head,
            teacher.positive,
            teacher.negative,
            rows.teacher_head,
            rows.labels,
            alpha=0.0 if teacher.negative is None else alpha,
            alpha_gate="none" if teacher.negative is None or teacher.alpha is not None else cfg.alpha_gate,
            gate_m=cfg.gate_m,
            temperature=cfg.temperature,
            kd_weight=cfg.share_of_kd,
            plausibility=cfg.plausibility,
            sharpen=cfg.sharpen,
            divergence=cfg.divergence,
            mix=cfg.mix,
            reduction=cfg.reduction,
            sample_of_row=rows.sample,
            normalizer=normalizer,
            kd_token_weights=teacher.kd_weights,
            vocab_size=rows.vocabulary,
            logits=cfg.logits,
        )

    def _loss_of_drawn(self, rows: LossRows, normalizer: float | None, drawn: DrawnRows) -> LossOutput:
        """Compute both terms on given answers, distillation on drawn ones, cross-entropy on those that they replace.

            L = lambda / R sum_n D_n + (1 - lambda) / N sum_n CE_n

        over R distilled rows (given, by the objective's divergence; drawn, by that of on_policy) and the N rows of the
        pseudo ground truth (method.md, on-policy).
        """
        cfg = self.objective
        assert normalizer is not None
        own = drawn.rows.nonzero().squeeze(-1)
        given = (~drawn.rows).nonzero().squeeze(-1)
        replaced = torch.arange(len(drawn.rows), len(rows.hidden), device=own.device)
        weights = rows.teacher.kd_weights
        if weights is None:
            wide = torch.promote_types(rows.hidden.dtype, torch.float32)
            weights = rows.hidden.new_ones(len(drawn.rows), dtype=wide)
        # The distillation term is a mean over another number of rows than the cross-entropy.
        scaled = replace(rows, teacher=replace(rows.teacher, kd_weights=weights * (normalizer / drawn.normalizer)))
        both = self._loss(cfg, scaled.take(given), normalizer)
        distilled = self._loss(cfg.on_drawn_answers, rows.take(own), drawn.normalizer)
        crossed = self._loss(cfg.without_teacher, rows.take(replaced, with_teacher=False), normalizer)
        lam = cfg.share_of_kd
        return LossOutput(
            both.loss + lam * distilled.loss + (1 - lam) * crossed.loss,
            both.kd + distilled.kd,
            both.ce + crossed.ce,
            _with_drawn(both.diagnostics, distilled.diagnostics, crossed.diagnostics),
        )

    def _hidden_states(
        self, hidden: Tensor, labels: Tensor, sample: Tensor | None, teacher: TeacherRows, normalizer: float | None
    ) -> tuple[Tensor, Tensor]:
        """Compute the term of hidden states, and the sum of their distances."""
        cfg = self.objective
        assert teacher.positive is not None
        with self.part("loss"):
            return hidden_state_loss(
                hidden if self.width_map is None else self.width_map(hidden),
                teacher.positive,
                teacher.negative,
                labels,
                alpha=cfg.alpha if teacher.alpha is None else teacher.alpha,
                distance=cfg.hidden_distance,
                normalizer=normalizer,
                reduction=cfg.reduction,
                sample_of_row=sample,
                token_weights=teacher.kd_weights,
            )


def _with_drawn(given: dict[str, Tensor], drawn: dict[str, Tensor], replaced: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the diagnostic sums of a micro-batch with drawn answers.

    The student's are over the pseudo ground truth that was read: without a cross-entropy, that of samples with a drawn
    answer is not. The teacher's are over the distilled rows, `kd_rows`. The student's entropy on drawn answers is
    separate.
    """
    sums = {name: given[name] + (replaced if name in STUDENT_SUMS else drawn)[name] for name in given}
    entropy = {"drawn_rows": drawn["rows"], "drawn_entropy": drawn["student_entropy"]}
    return sums | {"kd_rows": given["rows"] + drawn["rows"]} | entropy
