"""The audio of prompts, read and encoded: what a model is asked as batches."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from caad_ds.data.audio import decode
from caad_ds.data.audio.decoded import Sample
from caad_ds.data.audio.levels import Levels, faults, longer
from caad_ds.data.batch import Audio, Batch, joined
from caad_ds.generation.question import Askable, as_sample, different_clips
from caad_ds.generation.question import Audio as Clip
from caad_ds.models import negatives
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.reader import Features, Reader
from caad_ds.utils.errors import UserError

A = TypeVar("A", bound=Askable)


@dataclass(frozen=True)
class _Kept:
    """A clip as samples, its encoded audio (a row of each input) and the positions that it has."""

    waveform: np.ndarray
    audio: Audio
    positions: int


def length_fault(samples: int, reader: Reader) -> str | None:
    """Why a model takes no audio of so many samples at 16 kHz, or None."""
    seconds, window = samples / decode.SAMPLE_RATE, reader.longest_seconds
    if longer(seconds, window):
        return f"its {seconds:.9g} s exceed the encoder's window of {window:g} s"
    if seconds < (least := reader.shortest_seconds):
        return f"its {seconds:.9g} s are fewer than the {least:g} s that {reader.family} takes"
    return None


def doubt(levels: Levels) -> str:
    """Why rules of usable audio find a clip doubtful, "" where they do not."""
    return "; ".join(f"{rule}: {reason}" for rule, reason in faults(levels))


class Clips:
    """Prompts as prepared batches; a clip that consecutive batches share is encoded once.

    `failed` maps the clips that cannot be heard to the reason, `doubtful` those that are heard although a rule finds
    them unusable (levels.py): a silent clip may be meant. `others` are the clips that negative `shuffled` takes from.
    """

    def __init__(self, lm: AudioLM, device: torch.device, others: Iterable[Askable] = ()):
        self.lm, self.device = lm, device
        self.failed: dict[Clip, str] = {}
        self.doubtful: dict[Clip, str] = {}
        self._others = different_clips(others)
        self._kept: dict[Clip, _Kept] = {}

    @torch.no_grad()
    def hear(self, items: Sequence[A]) -> list[A]:
        """Encode the clips of a batch and return the items whose clips could all be heard."""
        clips = different_clips(items)
        waveforms = {}
        for clip in clips:
            if clip not in self._kept and clip not in self.failed:
                try:
                    waveforms[clip] = self._load(clip)
                except decode.AudioError as error:
                    self.failed[clip] = str(error)
        self._kept = {clip: kept for clip, kept in self._kept.items() if clip in clips}
        if waveforms:
            features = self.lm.reader.features(list(waveforms.values()))
            audio = self.lm.encode({name: each.to(self.device) for name, each in features.audio.items()})
            for row, (clip, waveform) in enumerate(waveforms.items()):
                each = {name: value[row] for name, value in audio.items()}
                self._kept[clip] = _Kept(waveform, each, features.positions[row])
        return [item for item in items if self.failed.keys().isdisjoint(item.clips)]

    def encoded(self, items: Iterable[Askable]) -> Audio:
        """The encoded audio of the different clips of items that `hear` returned, in order of appearance."""
        kept = [self._kept[clip].audio for clip in different_clips(items)]
        return joined([{name: value[None] for name, value in audio.items()} for audio in kept] or [{}])

    def prompts(self, items: Sequence[Askable]) -> Batch:
        """The left-padded prompts of items that `hear` returned."""
        return self._batch([as_sample(item) for item in items], items, pad="left", with_answer=False)

    def answered(self, items: Sequence[Askable], answers: Sequence[str]) -> Batch:
        """Each item's prompt with a given answer after it."""
        samples = [as_sample(item, answer) for item, answer in zip(items, answers, strict=True)]
        return self._batch(samples, items)

    def answered_ids(self, items: Sequence[Askable], answers: Sequence[Sequence[int]]) -> Batch:
        """The same with an answer's tokens, its end included."""
        return self._batch([as_sample(item) for item in items], items, answers=answers)

    def negative(self, items: Sequence[Askable], batch: Batch, name: str) -> Batch:
        """A batch of items, such as `prompts` gives, as the second path of the negative `name` sees it, prepared."""
        samples = [
            replace(as_sample(item), waveforms=[self._kept[clip].waveform for clip in item.clips]) for item in items
        ]
        found: dict[tuple[str, int], np.ndarray] = {}  # an item may be asked several times at once

        def partner(sample: Sample, number: int) -> np.ndarray:
            place = sample.key, number
            if place not in found:
                found[place] = self._partner(sample, number)
            return found[place]

        if self.lm.reader.window is not None:  # then it is the same for any audio, whose states need not be moved
            batch = replace(batch, audio={})
        second = negatives.find(name)(batch.to("cpu"), samples, self.lm.reader, partner)
        return self.lm.prepare(second.to(self.device))

    @torch.no_grad()
    def constant(self, name: str) -> Audio | None:
        """The encoded audio of a negative that is the same for every sample: a row, or none where it removes audio.

        None where it differs from sample to sample.
        """
        second = negatives.of_no_sample(name, self.lm.reader)
        return None if second is None else self.lm.prepare(second.to(self.device)).audio

    def rejected(self, items: Iterable[Askable]) -> list[dict]:
        """The items, each once whatever its conditions, with a clip that could not be heard, and the reason."""
        unheard = {item.id: clip for item in items for clip in item.clips if clip in self.failed}
        return [{"id": name, "reason": f"audio {clip}: {self.failed[clip]}"} for name, clip in unheard.items()]

    def doubted(self, items: Iterable[Askable]) -> list[dict]:
        """The items, each once, that are asked about a clip which a rule finds unusable, and the reason."""
        heard = {item.id: clip for item in items for clip in item.clips if clip in self.doubtful}
        return [{"id": name, "reason": f"audio {clip}: {self.doubtful[clip]}"} for name, clip in heard.items()]

    def _batch(self, samples: Sequence[Sample], items: Sequence[Askable], **reading: object) -> Batch:
        clips = different_clips(items)
        number = {clip: place for place, clip in enumerate(clips)}
        index = [number[clip] for item in items for clip in item.clips]
        features = Features(self.encoded(items), [self._kept[clip].positions for clip in clips])
        return self.lm.reader.placed(samples, features, index, **reading).to(self.device)  # type: ignore[arg-type]

    def _partner(self, sample: Sample, number: int) -> np.ndarray:
        """The audio of another clip than the sample's own, the same whatever is asked beside it.

        A clip that cannot be heard is nobody's partner.
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
