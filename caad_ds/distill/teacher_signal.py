"""Sources of the teacher's hidden states, behind one interface for the training step."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import deepspeed
import torch
from torch import Tensor, nn

from caad_ds.data.batch import Batch, PairedBatch
from caad_ds.distill.shared_prefix import KeptPrefixes, shared_prefix
from caad_ds.distill.student_objective import Timed
from caad_ds.loss.head import LMHead
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM


@dataclass(frozen=True)
class TeacherStates:
    """The teacher's hidden states at the N answer rows of a batch.

    Args:
        positive: h_pos [N, Ht], or already contrasted states.
        negative: h_neg [N, Ht]; None if there is nothing to contrast, as in standard KD.
        alpha: each row's contrast strength [N], if known already; None: the objective's.
        advantage: log p_pos - log p_neg of each row's answer token [N], if known already.
        kd_weights: factors of the rows' distillation terms [N]; None: all equal.
    """

    positive: Tensor
    negative: Tensor | None
    alpha: Tensor | None = None
    advantage: Tensor | None = None
    kd_weights: Tensor | None = None


class TeacherSignal(Protocol):
    """The teacher's interface for training: hidden states at the answer rows, and the head that makes logits of them.

    The states may come from an engine or from a cache.
    """

    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """Return the states of each batch of a window; `ours` are the student's prepared batches.

        Every rank calls it equally often.
        """
        ...

    def head(self) -> AbstractContextManager[LMHead]:
        """Yield the teacher's LM head, whole on every rank inside the context."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the weights that compute the states, like a module's; none if states are only read."""
        ...

    def close(self) -> None:
        """Release its resources at the end of a run or after a failure; the process group still exists."""
        ...


class TeacherForward(nn.Module):
    """The module of the teacher's engine: from tokens to hidden states in a single forward.

    Calling submodules outside a ZeRO-3 engine invalidates its trace, so embedding, connector and both paths are in
    here. With `keep_prefix` the negative path starts after its common prefix, in a separate forward.
    """

    def __init__(self, lm: AudioLM, keep_prefix: bool = False):
        super().__init__()
        self.model = lm.module
        self.lm = lm
        self.kept = KeptPrefixes(lm.generator) if keep_prefix else None

    def forward(self, batch: Batch, negative: Batch | None) -> tuple[Tensor, Tensor | None]:
        """Run both paths as one forward of 2B samples; only the positive one if there is no negative."""
        if negative is None:
            return self.lm.hidden(batch), None
        if self.kept is not None and len(prefix := _constant(batch, negative)):
            assert isinstance(self.lm, SpeechAudioLM)  # the config refuses other families
            kept = self.kept.hidden_states(self.lm.module, self.lm.embedded(negative), prefix)
            return self.lm.hidden(batch), kept
        positive, second = self.lm.hidden(Batch.cat([batch, negative])).chunk(2)
        return positive, second


def _constant(batch: Batch, negative: Batch) -> Tensor:
    """Return the tokens [P] of the negative path's common prefix, without removed audio."""
    removed = not len(negative.audio_index)
    if not (removed or negative.constant):
        return batch.input_ids[0, :0]
    length = shared_prefix(batch)
    ids, audio = batch.input_ids[0, :length], batch.audio_mask[0, :length]
    return ids[~audio] if removed else ids


class OnlineTeacher:
    """The frozen teacher in a ZeRO-3 inference engine, run for every batch.

    Modules outside the engines run once per batch; with `shares`, once for teacher and student together. `part` times
    them.
    """

    def __init__(self, engine: Any, shares: bool = False, part: Timed = nullcontext):
        self.engine = engine
        self.lm: AudioLM = engine.module.lm
        self.shares = shares
        self.part = part

    def states(self, batches: Sequence[PairedBatch], ours: Sequence[Batch]) -> list[TeacherStates]:
        """Compute the states of all batches in one forward; `ours` are the student's prepared batches."""
        theirs = []
        for batch, prepared in zip(batches, ours, strict=True):
            assert batch.teacher is not None
            # Both batches have the same audios in the same order, even if their texts differ.
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
        """Compute h_pos [N, Ht] of the teacher's batch and h_neg [N, Ht] of its second path (None for standard KD).

        Both batches must be prepared.
        """
        return self.engine(batch, negative)

    @contextmanager
    def head(self) -> Iterator[LMHead]:
        """Yield the teacher's head, gathered from all ranks for the duration of the context.

        It is a copy if ZeRO-3 partitions it: the head may be tied to the embedding, which the teacher's forward gathers
        and partitions again.
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
        """Return the teacher's weights; under ZeRO-3 each is a rank's share."""
        return self.engine.module.named_parameters()

    def close(self) -> None:
        """Release the engine, with ZeRO-3's hooks and buffers."""
        self.engine.destroy()
