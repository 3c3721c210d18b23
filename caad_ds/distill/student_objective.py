"""The student with its loss: the one module of the student's engine."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from caad_ds.config.schema import ObjectiveSection
from caad_ds.data.batch import Batch
from caad_ds.loss import LMHead, LossOutput, contrastive_distillation_loss
from caad_ds.models.language_model.llm import lm_head
from caad_ds.models.speech_lm.embed import merge_audio
from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM

Timed = Callable[[str], AbstractContextManager]  # wraps a named part of the step


class StudentObjective(nn.Module):
    """Student and Stage 2 objective in one forward (method.md, L = lambda * L_CD + (1 - lambda) * L_GT).

    A trainable LM head that ZeRO-3 partitions can only be read inside the engine's forward, so the loss is in here.
    `part("loss")` wraps what the loss takes, its gradient included. `encoder` is given if its adapters train: then it
    runs in here, and no states are passed.
    """

    def __init__(
        self,
        student: SpeechLM,
        objective: ObjectiveSection,
        part: Timed = nullcontext,
        encoder: SpeechEncoder | None = None,
    ):
        super().__init__()
        self.part = part
        self.encoder = encoder
        self.student = student
        self.objective = objective

    def forward(
        self,
        batch: Batch,
        states: AudioStates | None,
        teacher_pos: Tensor | None = None,
        teacher_neg: Tensor | None = None,
        teacher_head: LMHead | None = None,
        normalizer: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Loss, its terms kd and ce, and the diagnostics of one micro-batch; see `contrastive_distillation_loss`.

        The teacher's states [N, Ht] and head are None for objective `ce`. A plain tuple, as ZeRO's hooks expect.
        """
        cfg = self.objective
        if self.encoder is not None:
            with self.part("encoder"):
                states = self.encoder.encode(batch.features)
        assert states is not None, "states of an encoder that is not in here"
        audio = self.student.project(states)
        hidden = self.student.hidden_states(merge_audio(self.student, batch, audio[batch.audio_index]))
        head = lm_head(self.student.llm)
        # Families pad one vocabulary to several sizes; the rows beyond the smaller head's stand for no token.
        vocabulary = None if teacher_head is None else min(len(head.weight), len(teacher_head.weight))
        with self.part("loss"):
            out: LossOutput = contrastive_distillation_loss(
                hidden,
                head,
                teacher_pos,
                teacher_neg,
                teacher_head,
                batch.targets,
                alpha=0.0 if teacher_neg is None else cfg.alpha,
                temperature=cfg.temperature,
                kd_weight=cfg.share_of_kd,
                plausibility=cfg.plausibility,
                sharpen=cfg.sharpen,
                divergence=cfg.divergence,
                mix=cfg.mix,
                reduction=cfg.reduction,
                sample_of_row=batch.sample_of_row if cfg.reduction == "sample" else None,
                normalizer=normalizer,
                vocab_size=vocabulary,
                logits=cfg.logits,
            )
        # A path from the loss to weights that train, also where the connector alone trains and no sample hears its
        # audio: a loss that is not finite is noticed by its gradient (step.py). It adds 0 to both.
        path = 0.0 * audio.flatten()[0]
        return out.loss + path, out.kd, out.ce, out.diagnostics
