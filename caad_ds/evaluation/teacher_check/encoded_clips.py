"""Encoder outputs of clips, each computed once."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from caad_ds.data.batch import len_of
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.teacher_check.prefix_tree import can_share
from caad_ds.generation.clips import different_clips
from caad_ds.generation.model import Model
from caad_ds.generation.question import Audio
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM


class EncodedClips:
    """Encoded clips of items; `clips` builds batches of those encoded last.

    `shares`: common prefixes of prompts can be run once. This requires that audio enters the model only as embeddings,
    and that no negative depends on the sample. The connector's outputs [K, E] are then kept in host memory: half a MiB
    per clip for the paper's models.
    """

    def __init__(self, loaded: Model, negatives: Sequence[str], others: Iterable[Item] = ()):
        self.clips = loaded.clips(others)
        self._device = loaded.device
        lm = loaded.lm
        self._lm = lm if isinstance(lm, SpeechAudioLM) and can_share(lm.generator) else None
        if self._lm is not None and any(self.clips.constant(name) is None for name in negatives):
            self._lm = None
        self._outputs: dict[Audio, Tensor] = {}

    @property
    def shares(self) -> bool:
        """Whether sequences can be built from embeddings and continued from cached keys and values."""
        return self._lm is not None

    @torch.no_grad()
    def encode(self, items: Sequence[Item]) -> list[Item]:
        """Encode the clips of items and return the items whose clips could all be decoded."""
        if self._lm is None:
            return self.clips.encode(items)
        new = self.clips.encode([item for item in items if not self._outputs.keys() >= set(item.clips)])
        if new:
            outputs = self._lm.projected(self.clips.encoded(new)).cpu()
            self._outputs.update(zip(different_clips(new), outputs, strict=True))
        return [item for item in items if self._outputs.keys() >= set(item.clips)]

    def outputs(self, items: Sequence[Item]) -> Tensor:
        """Return the connector's outputs [U, K, E] of the distinct clips of items that `encode` returned."""
        return torch.stack([self._outputs[clip] for clip in different_clips(items)]).to(self._device)

    @torch.no_grad()
    def constant(self, negative: str) -> Tensor | None:
        """Return the connector's outputs [1, K, E] of a sample-independent negative; None if it removes the audio."""
        assert self._lm is not None
        audio = self.clips.constant(negative)
        return self._lm.projected(audio) if audio and len_of(audio) else None

    def rejected(self, items: Iterable[Item]) -> list[dict]:
        """Return the ids of items with a clip that could not be decoded, each once, and the reason."""
        return self.clips.rejected(items)

    def doubted(self, items: Iterable[Item]) -> list[dict]:
        """Return the ids of items with a clip that a rule finds unusable, each once, and the reason."""
        return self.clips.doubted(items)
