"""Where the teacher's hidden states come from; the training step does not know which."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import deepspeed
import torch
from torch import Tensor, nn

from caad_ds.data.batch import Batch, PairedBatch
from caad_ds.distill.prefix import KeptPrefixes, shared_prefix
from caad_ds.distill.student_objective import Timed
from caad_ds.loss.head import LMHead
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM


@dataclass(frozen=True)
class TeacherStates:
    """The teacher's hidden states at the N answer rows of a batch.

    Args:
        positive: h_pos [N, Ht], or what is already contrasted.
        negative: h_neg [N, Ht]; None where nothing is left to contrast, as in standard KD.
        alpha: the strength of the contrast of each row [N], where it is known already; None: as the objective says.
        advantage: log p_pos - log p_neg of the answer's token of each row [N], where it is known already.
        kd_weights: factors of the rows' distillation terms [N]; None: all count alike.
    """

    positive: Tensor
    negative: Tensor | None
    alpha: Tensor | None = None
    advantage: Tensor | None = None
    kd_weights: Tensor | None = None


class TeacherSignal(Protocol):
    """The teacher as training sees it: hidden states at the answer rows, and the head that turns them into logits.

    A run asks nothing else of it, so that the states may come from an engine or from a cache.
    """

    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """The states of each batch of a window; `ours` are the student's batches, prepared.

        Every rank calls it equally often.
        """
        ...

    def head(self) -> AbstractContextManager[LMHead]:
        """The teacher's LM head, whole on every rank inside the context."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights that the states are computed with, as a module gives them; none where they are only read."""
        ...

    def close(self) -> None:
        """Release what it holds, at the end of a run or after a failure; the process group is still there."""
        ...


class TeacherForward(nn.Module):
    """The one module of the teacher's engine: everything from tokens to hidden states in a single forward.

    Submodules called around a ZeRO-3 engine invalidate its trace, so embedding, connector and both paths are in here.
    With `keep_prefix` the negative path begins where its samples begin to differ, which makes it a forward of its own.
    """

    def __init__(self, lm: AudioLM, keep_prefix: bool = False):
        super().__init__()
        self.model = lm.module
        self.lm = lm
        self.kept = KeptPrefixes(lm.generator) if keep_prefix else None

    def forward(self, batch: Batch, negative: Batch | None) -> tuple[Tensor, Tensor | None]:
        """Both paths as one forward of 2B samples; only the positive one if there is no negative."""
        if negative is None:
            return self.lm.hidden(batch), None
        if self.kept is not None and len(prefix := _constant(batch, negative)):
            assert isinstance(self.lm, SpeechAudioLM)  # the configuration refuses others
            kept = self.kept.hidden_states(self.lm.module, self.lm.embedded(negative), prefix)
            return self.lm.hidden(batch), kept
        positive, second = self.lm.hidden(Batch.cat([batch, negative])).chunk(2)
        return positive, second


def _constant(batch: Batch, negative: Batch) -> Tensor:
    """The tokens [P] that the negative path of every sample begins with, without audio that is removed."""
    removed = not len(negative.audio_index)
    if not (removed or negative.constant):
        return batch.input_ids[0, :0]
    length = shared_prefix(batch)
    ids, audio = batch.input_ids[0, :length], batch.audio_mask[0, :length]
    return ids[~audio] if removed else ids


class OnlineTeacher:
    """The frozen teacher in a ZeRO-3 inference engine, run for every batch.

    What a model computes outside its engine runs once a batch, for teacher and student together where `shares` says
    that both compute the same. `part` wraps what that takes.
    """

    def __init__(self, engine: Any, shares: bool = False, part: Timed = nullcontext):
        self.engine = engine
        self.lm: AudioLM = engine.module.lm
        self.shares = shares
        self.part = part

    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """The states of each batch, of one forward for all; `ours` are the student's batches, prepared."""
        theirs = []
        for batch, prepared in zip(batches, ours, strict=True):
            assert batch.teacher is not None
            # Both batches have the same audios in the same order, however their texts differ.
            shared = replace(batch.teacher, audio=prepared.audio) if self.shares else None
            theirs.append(shared or self._prepared(batch.teacher))
        seconds = [self._prepared(batch.negative) for batch in batches if batch.negative is not None]
        positive, negative = self.signal(Batch.cat(theirs), Batch.cat(seconds) if seconds else None)
        rows = [len(batch.targets) for batch in theirs]
        paths = positive.split(rows), negative.split(rows) if negative is not None else [None] * len(rows)
        return [TeacherStates(*each) for each in zip(*paths, strict=True)]

    def _prepared(self, batch: Batch) -> Batch:
        with self.part("encoder"):
            return self.lm.prepare(batch)

    @torch.no_grad()
    def signal(self, batch: Batch, negative: Batch | None) -> tuple[Tensor, Tensor | None]:
        """h_pos [N, Ht] of the teacher's batch and h_neg [N, Ht] of its second path (None for standard KD).

        Both batches are prepared.
        """
        return self.engine(batch, negative)

    @contextmanager
    def head(self) -> Iterator[LMHead]:
        """The teacher's head gathered from all ranks for the duration of the context.

        A copy where ZeRO-3 partitions it: the teacher's own forward, to whose embedding the head may be tied, gathers
        and partitions that weight again.
        """
        lm = self.engine.module.lm
        partitioned = [p for p in lm.generator.get_output_embeddings().parameters() if hasattr(p, "ds_id")]
        with torch.no_grad(), deepspeed.zero.GatheredParameters(partitioned, modifier_rank=None):
            head = lm.head()
            if partitioned:
                bias = None if head.bias is None else head.bias.clone()
                head = replace(head, weight=head.weight.clone(), bias=bias)
        yield head

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The teacher's weights; under ZeRO-3 each is a rank's share."""
        return self.engine.module.named_parameters()

    def close(self) -> None:
        """Release the engine, with ZeRO-3's hooks and buffers."""
        self.engine.destroy()
