"""Clips as the language model hears them: each is encoded once, however often it is asked about."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.generation.clips import Clips
from caad_ds.generation.model import Model
from caad_ds.generation.question import Audio, different_clips


class EncodedClips:
    """The connector's outputs [K, E] of clips, kept in host memory: a clip of the paper's models takes half a MiB."""

    def __init__(self, loaded: Model):
        self._loaded = loaded
        self._clips = Clips(loaded.encoder)
        self._kept: dict[Audio, Tensor] = {}

    @torch.no_grad()
    def hear(self, items: Sequence[Item]) -> list[Item]:
        """The items whose clips can all be heard."""
        new = self._clips.hear([item for item in items if not self._kept.keys() >= set(item.clips)])
        if new:
            outputs = self._loaded.model.project(self._clips.states(new)).cpu()
            self._kept.update(zip(different_clips(new), outputs, strict=True))
        return [item for item in items if self._kept.keys() >= set(item.clips)]

    def outputs(self, items: Sequence[Item]) -> Tensor:
        """Those of the different clips of items that `hear` returned, [U, K, E], in order of appearance."""
        return torch.stack([self._kept[clip] for clip in different_clips(items)]).to(self._loaded.device)

    def rejected(self, items: Iterable[Item]) -> list[dict]:
        """The items with a clip that could not be heard, each once, and the reason."""
        return self._clips.rejected(items)

    def doubted(self, items: Iterable[Item]) -> list[dict]:
        """The items with a clip that a rule finds unusable, each once, and the reason."""
        return self._clips.doubted(items)
