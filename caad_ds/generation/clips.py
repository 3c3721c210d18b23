"""Read and encode the audio of prompts, and build the batches."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from caad_ds.data.audio import decode
from caad_ds.data.audio.usable_audio import Levels, faults, longer
from caad_ds.data.batch import Audio, Batch, joined
from caad_ds.data.decoded_sample import Sample
from caad_ds.generation.question import Askable, as_sample
from caad_ds.generation.question import Audio as Clip
from caad_ds.models import negatives
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.reader import Features, Reader
from caad_ds.utils.errors import UserError

A = TypeVar("A", bound=Askable)


@dataclass(frozen=True)
class _EncodedClip:
    """A clip's samples, its encoded audio (a row of each input) and the number of its positions."""

    waveform: np.ndarray
    audio: Audio
    positions: int


def different_clips(prompts: Iterable[Askable]) -> list[Clip]:
    """Return the distinct clips of prompts, in order of appearance."""
    return list(dict.fromkeys(clip for prompt in prompts for clip in prompt.clips))


def length_fault(samples: int, reader: Reader) -> str | None:
    """Return why a model takes no audio of so many samples at 16 kHz, or None."""
    seconds, window = samples / decode.SAMPLE_RATE, reader.longest_seconds
    if longer(seconds, window):
        return f"its {seconds:.9g} s exceed the encoder's window of {window:g} s"
    if seconds < (least := reader.shortest_seconds):
        return f"its {seconds:.9g} s are fewer than the {least:g} s that {reader.family} takes"
    return None


def doubt(levels: Levels) -> str:
    """Return why the rules of usable audio find a clip doubtful, "" if they do not."""
    return "; ".join(f"{rule}: {reason}" for rule, reason in faults(levels))


class Clips:
    """Prompts as prepared batches; a clip that consecutive batches share is encoded once.

    `failed` maps clips that cannot be decoded to the reason; `doubtful` maps clips that are used although a rule finds
    them unusable (usable_audio.py), for silence may be intended. `others`: clips that negative `shuffled` draws from.
    """

    def __init__(self, lm: AudioLM, device: torch.device, others: Iterable[Askable] = ()):
        self.lm, self.device = lm, device
        self.failed: dict[Clip, str] = {}
        self.doubtful: dict[Clip, str] = {}
        self._others = different_clips(others)
        self._encoded: dict[Clip, _EncodedClip] = {}

    @torch.no_grad()
    def encode(self, items: Sequence[A]) -> list[A]:
        """Encode the clips of a batch and return the items whose clips could all be decoded."""
        clips = different_clips(items)
        waveforms = {}
        for clip in clips:
            if clip not in self._encoded and clip not in self.failed:
                try:
                    waveforms[clip] = self._load(clip)
                except decode.AudioError as error:
                    self.failed[clip] = str(error)
        self._encoded = {clip: encoded for clip, encoded in self._encoded.items() if clip in clips}
        if waveforms:
            features = self.lm.reader.features(list(waveforms.values()))
            audio = self.lm.encode({name: value.to(self.device) for name, value in features.audio.items()})
            for row, (clip, waveform) in enumerate(waveforms.items()):
                clip_audio = {name: value[row] for name, value in audio.items()}
                self._encoded[clip] = _EncodedClip(waveform, clip_audio, features.positions[row])
        return [item for item in items if self.failed.keys().isdisjoint(item.clips)]

    def encoded(self, items: Iterable[Askable]) -> Audio:
        """Return the encoded audio of the distinct clips of items that `encode` returned, in order of appearance."""
        audios = [self._encoded[clip].audio for clip in different_clips(items)]
        return joined([{name: value[None] for name, value in audio.items()} for audio in audios] or [{}])

    def prompts(self, items: Sequence[Askable]) -> Batch:
        """Return the left-padded prompts of items that `encode` returned."""
        return self._batch([as_sample(item) for item in items], items, pad="left", with_answer=False)

    def answered(self, items: Sequence[Askable], answers: Sequence[str]) -> Batch:
        """Return each item's prompt followed by a given answer."""
        samples = [as_sample(item, answer) for item, answer in zip(items, answers, strict=True)]
        return self._batch(samples, items)

    def answered_ids(self, items: Sequence[Askable], answers: Sequence[Sequence[int]]) -> Batch:
        """Return the same with the answers as token ids, end token included."""
        return self._batch([as_sample(item) for item in items], items, answers=answers)

    def negative(self, items: Sequence[Askable], batch: Batch, name: str) -> Batch:
        """Return the prepared batch of the second path: `batch` (see `prompts`) with the negative `name`."""
        samples = [
            replace(as_sample(item), waveforms=[self._encoded[clip].waveform for clip in item.clips]) for item in items
        ]
        partners: dict[tuple[str, int], np.ndarray] = {}  # an item may occur several times in a batch

        def partner(sample: Sample, number: int) -> np.ndarray:
            key = sample.key, number
            if key not in partners:
                partners[key] = self._partner(sample, number)
            return partners[key]

        if self.lm.reader.window is not None:  # the negative does not depend on the audio states: do not move them
            batch = replace(batch, audio={})
        second = negatives.find(name)(batch.to("cpu"), samples, self.lm.reader, partner)
        return self.lm.prepare(second.to(self.device))

    @torch.no_grad()
    def constant(self, name: str) -> Audio | None:
        """Return the encoded audio of a negative that is the same for every sample: a row, or none if it removes audio.

        None if the negative depends on the sample.
        """
        second = negatives.constant_negative(name, self.lm.reader)
        return None if second is None else self.lm.prepare(second.to(self.device)).audio

    def rejected(self, items: Iterable[Askable]) -> list[dict]:
        """Return the ids of items with a clip that could not be decoded, each once, and the reason."""
        failed = {item.id: clip for item in items for clip in item.clips if clip in self.failed}
        return [{"id": name, "reason": f"audio {clip}: {self.failed[clip]}"} for name, clip in failed.items()]

    def doubted(self, items: Iterable[Askable]) -> list[dict]:
        """Return the ids of items with a clip that a rule finds unusable, each once, and the reason."""
        doubtful = {item.id: clip for item in items for clip in item.clips if clip in self.doubtful}
        return [{"id": name, "reason": f"audio {clip}: {self.doubtful[clip]}"} for name, clip in doubtful.items()]

    def _batch(self, samples: Sequence[Sample], items: Sequence[Askable], **reading: object) -> Batch:
        clips = different_clips(items)
        row_of = {clip: row for row, clip in enumerate(clips)}
        index = [row_of[clip] for item in items for clip in item.clips]
        features = Features(self.encoded(items), [self._encoded[clip].positions for clip in clips])
        return self.lm.reader.placed(samples, features, index, **reading).to(self.device)  # type: ignore[arg-type]

    def _partner(self, sample: Sample, number: int) -> np.ndarray:
        """Return the audio of another clip, which depends on the sample's key alone and not on the batch.

        Clips that cannot be decoded are passed over.
        """
        first = int.from_bytes(hashlib.sha256(f"{sample.key}:{number}".encode()).digest()[:8])
        for step in range(len(self._others)):
            try:
                waveform = self._load(self._others[(first + step) % len(self._others)])
            except decode.AudioError:
                continue
            if not any(np.array_equal(waveform, own) for own in sample.waveforms):
                return waveform
        raise UserError("negative shuffled: there is no other clip to take audio from; choose another negative")

    def _load(self, clip: Clip) -> np.ndarray:
        waveform, levels = clip.measured()
        if fault := length_fault(len(waveform), self.lm.reader):
            raise decode.AudioError(fault)
        if reason := doubt(levels):
            self.doubtful[clip] = reason
        return waveform
