"""Prompts about one or several audios, from a benchmark or a caller."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from caad_ds.data.audio import decode
from caad_ds.data.audio.usable_audio import Levels
from caad_ds.data.audio_markers import user_content
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.record import PromptRecord
from caad_ds.utils.errors import AudioError, UserError

# A caller's audio: a file's path, its bytes, or samples [frames] or [frames, channels] with their rate in Hz.
AudioInput = str | os.PathLike[str] | bytes | tuple[Any, int]


class Audio(Protocol):
    """One audio; equal ones are encoded once, and `str` names it in messages."""

    @property
    def text(self) -> str:
        """The transcription, "" if unknown."""

    def measured(self) -> tuple[np.ndarray, Levels]:
        """Return float32 mono 16 kHz [samples] and their levels; raises AudioError if it does not decode."""


class Askable(Protocol):
    """One prompt: `messages` for a chat template, with `<|AUDIO|>` once per clip, in the clips' order.

    Several prompts may share an `id`, the name in lists; `key` is unique.
    """

    @property
    def id(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def clips(self) -> Sequence[Audio]: ...

    @property
    def messages(self) -> Sequence[dict]: ...


@dataclass(frozen=True, eq=False)
class Recording:
    """A caller's audio: a file, the bytes of one, or samples [frames] or [frames, channels] and their rate in Hz.

    `number` distinguishes the recordings of a prompt.
    """

    source: Path | bytes | tuple[np.ndarray, int]
    text: str = ""
    number: int | None = None

    def __str__(self) -> str:
        if isinstance(self.source, Path):
            return str(self.source)
        kind = "bytes" if isinstance(self.source, bytes) else "samples"
        return kind if self.number is None else f"{kind} of clip {self.number}"

    def measured(self) -> tuple[np.ndarray, Levels]:
        """Return the samples as the model gets them, and their levels; see `Audio`."""
        if isinstance(self.source, Path):
            return decode.measured(self.source)
        if isinstance(self.source, bytes):
            if not self.source:
                raise AudioError("the bytes are empty")
            return decode.measured(io.BytesIO(self.source))
        return decode.measured_samples(*self.source)


def recordings(
    audio: AudioInput | Sequence[AudioInput], text: str | Sequence[str | None] | None = None
) -> tuple[Recording, ...]:
    """Return a caller's audio, or a list of any number, as recordings with transcriptions; raises UserError.

    `text` is the transcription of a single clip, or a list with one per clip.
    """
    clips = list(audio) if isinstance(audio, list) else [audio]
    texts = list(text) if isinstance(text, list | tuple) else [cast(str | None, text)]
    if not any(texts):
        texts = [None] * len(clips)
    if wrong := [value for value in texts if not isinstance(value, str | None)]:
        raise UserError(f"text: a transcription of type {type(wrong[0]).__name__}; give texts")
    if len(texts) != len(clips):
        raise UserError(
            f"text: {len(texts)} for {len(clips)} clips; give a transcription for each, empty where there is none"
        )
    return tuple(
        Recording(_source(clip, number), transcription or "", number if len(clips) > 1 else None)
        for number, (clip, transcription) in enumerate(zip(clips, texts, strict=True), 1)
    )


def _source(one: object, number: int) -> Path | bytes | tuple[np.ndarray, int]:
    match one:
        case str() | os.PathLike():
            return Path(one)
        case bytes() | bytearray() | memoryview():
            return bytes(one)
        case (samples, rate) if isinstance(one, tuple) and not isinstance(samples, str | bytes | os.PathLike):
            try:
                return np.asarray(samples), cast(int, rate)
            except (ValueError, TypeError, RuntimeError) as error:  # of unequal channels, or on another device
                reason = " ".join(str(error).split())[:120]
                raise UserError(
                    f"audio {number}: samples that NumPy does not take ({reason}); give an array"
                ) from error
    raise UserError(
        f"audio {number}: it is a {type(one).__name__}; give a path, (samples, rate), a file's bytes, or a list of them"
    )


@dataclass(frozen=True)
class Question:
    """A question about recordings, optionally preceded by a `hint`."""

    clips: tuple[Recording, ...]
    question: str
    hint: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.question, str) or not self.question.strip():
            raise UserError(f"question {self.question!r}: it is empty; give a text")

    @property
    def id(self) -> str:
        """The name in messages: those of its recordings."""
        return ", ".join(map(str, self.clips)) or "question"

    @property
    def key(self) -> str:
        """The id; there is only one prompt."""
        return self.id

    @property
    def messages(self) -> list[dict]:
        """One user turn, as in benchmarks."""
        return [{"role": "user", "content": user_content(self.question, self.hint, len(self.clips))}]


def as_sample(prompt: Askable, answer: str | None = None) -> Sample:
    """Return a prompt as a sample without waveforms; its encoded audio is passed separately."""
    record = {
        "id": prompt.key,
        "audios": [{"path": str(clip), "text": clip.text} for clip in prompt.clips],
        "messages": list(prompt.messages),
        "response": answer,
    }
    return Sample(prompt.key, cast(PromptRecord, record), [])  # benchmarks validate their rows
