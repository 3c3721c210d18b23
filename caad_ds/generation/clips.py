"""The audio of prompts as encoder states."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch

from caad_ds.data.audio import decode
from caad_ds.data.audio.levels import faults, longer
from caad_ds.generation.question import Askable, Audio, different_clips
from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder

A = TypeVar("A", bound=Askable)


class Clips:
    """Encoder states of clips; a clip that consecutive batches share is encoded once.

    `failed` maps the clips that cannot be heard to the reason, `doubtful` those that are heard although a rule finds
    them unusable (levels.py): a silent clip may be meant.
    """

    def __init__(self, encoder: SpeechEncoder):
        self.encoder = encoder
        self.failed: dict[Audio, str] = {}
        self.doubtful: dict[Audio, str] = {}
        self._kept: dict[Audio, torch.Tensor] = {}

    def hear(self, items: Sequence[A]) -> list[A]:
        """Encodes the clips of a batch and returns the items whose clips could all be heard."""
        clips = different_clips(items)
        waveforms = {}
        for clip in clips:
            if clip not in self._kept and clip not in self.failed:
                try:
                    waveforms[clip] = self._load(clip)
                except decode.AudioError as error:
                    self.failed[clip] = str(error)
        self._kept = {clip: states for clip, states in self._kept.items() if clip in clips}
        if waveforms:
            hidden = self.encoder.encode(self.encoder.features(list(waveforms.values()))).hidden
            self._kept.update(zip(waveforms, hidden, strict=True))
        return [item for item in items if self.failed.keys().isdisjoint(item.clips)]

    def states(self, items: Sequence[Askable]) -> AudioStates:
        """The states of the different clips of items that `hear` returned, in order of appearance."""
        return AudioStates(torch.stack([self._kept[clip] for clip in different_clips(items)]))

    def rejected(self, items: Iterable[Askable]) -> list[dict]:
        """The items, each once whatever its conditions, with a clip that could not be heard, and the reason."""
        unheard = {item.id: clip for item in items for clip in item.clips if clip in self.failed}
        return [{"id": name, "reason": f"audio {clip}: {self.failed[clip]}"} for name, clip in unheard.items()]

    def doubted(self, items: Iterable[Askable]) -> list[dict]:
        """The items, each once, that are asked about a clip which a rule finds unusable, and the reason."""
        heard = {item.id: clip for item in items for clip in item.clips if clip in self.doubtful}
        return [{"id": name, "reason": f"audio {clip}: {self.doubtful[clip]}"} for name, clip in heard.items()]

    def _load(self, clip: Audio) -> np.ndarray:
        waveform, levels = clip.measured()
        seconds, window = len(waveform) / decode.SAMPLE_RATE, self.encoder.window_seconds
        if longer(seconds, window):
            raise decode.AudioError(f"its {seconds:.1f} s exceed the encoder's window of {window} s")
        if found := faults(levels):
            self.doubtful[clip] = "; ".join(f"{rule}: {reason}" for rule, reason in found)
        return waveform
