"""Clips as the language model hears them: each is encoded once, however often it is asked about."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from caad_ds.data.batch import len_of
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.teacher_check.prefix_tree import can_share
from caad_ds.generation.model import Model
from caad_ds.generation.question import Audio, different_clips
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM


class EncodedClips:
    """Clips of items, heard; `clips` makes batches of those that were heard last.

    `shares` says whether what prompts have in common can be run once: where all that a model makes of audio are
    embeddings, and no negative differs from sample to sample. The connector's outputs [K, E] are then kept in host
    memory: a clip of the paper's models takes half a MiB.
    """

    def __init__(self, loaded: Model, negatives: Sequence[str], others: Iterable[Item] = ()):
        self.clips = loaded.clips(others)
        self._device = loaded.device
        lm = loaded.lm
        self._lm = lm if isinstance(lm, SpeechAudioLM) and can_share(lm.generator) else None
        if self._lm is not None and any(self.clips.constant(name) is None for name in negatives):
            self._lm = None
        self._kept: dict[Audio, Tensor] = {}

    @property
    def shares(self) -> bool:
        """Whether sequences may be put together from embeddings, and continued from kept keys and values."""
        return self._lm is not None

    @torch.no_grad()
    def encode(self, items: Sequence[Item]) -> list[Item]:
        """The items whose clips can all be heard."""
        if self._lm is None:
            return self.clips.encode(items)
        new = self.clips.encode([item for item in items if not self._kept.keys() >= set(item.clips)])
        if new:
            outputs = self._lm.connected(self.clips.encoded(new)).cpu()
            self._kept.update(zip(different_clips(new), outputs, strict=True))
        return [item for item in items if self._kept.keys() >= set(item.clips)]

    def outputs(self, items: Sequence[Item]) -> Tensor:
        """Those of the different clips of items that `hear` returned, [U, K, E], in order of appearance."""
        return torch.stack([self._kept[clip] for clip in different_clips(items)]).to(self._device)

    @torch.no_grad()
    def constant(self, negative: str) -> Tensor | None:
        """The connector's outputs [1, K, E] of a negative that is the same for every sample; None: of no audio."""
        assert self._lm is not None
        audio = self.clips.constant(negative)
        return self._lm.connected(audio) if audio and len_of(audio) else None

    def rejected(self, items: Iterable[Item]) -> list[dict]:
        """The items with a clip that could not be heard, each once, and the reason."""
        return self.clips.rejected(items)

    def doubted(self, items: Iterable[Item]) -> list[dict]:
        """The items with a clip that a rule finds unusable, each once, and the reason."""
        return self.clips.doubted(items)
