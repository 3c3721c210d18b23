"""Where the teacher's hidden states come from; the training step does not know which."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import deepspeed
import torch
from torch import Tensor, nn

from caad_ds.data.batch import Batch
from caad_ds.distill.prefix import KeptPrefixes, shared_prefix
from caad_ds.loss.head import LMHead
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM


class TeacherSignal(Protocol):
    """The teacher as training sees it: hidden states at the answer rows, and the head that turns them into logits.

    A run asks nothing else of it, so that the states may come from an engine or from somewhere else.
    """

    def signal(self, batch: Batch, negative: Batch | None) -> tuple[Tensor, Tensor | None]:
        """h_pos [N, Ht] of the teacher's batch and h_neg [N, Ht] of its second path (None for standard KD).

        Both batches are prepared.
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
    """The frozen teacher in a ZeRO-3 inference engine, run for every batch."""

    def __init__(self, engine: Any):
        self.engine = engine

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
