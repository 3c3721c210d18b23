"""What a model is asked: a prompt about one or several audios, of a benchmark or of a caller's own."""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from caad_ds.data.audio import decode
from caad_ds.data.audio.decoded import Sample
from caad_ds.data.audio.levels import Levels
from caad_ds.data.markers import user_content
from caad_ds.data.record import PromptRecord
from caad_ds.utils.errors import AudioError, UserError

# A caller's audio: a file's path, its bytes, or samples [frames] or [frames, channels] with their rate in Hz.
Given = str | os.PathLike[str] | bytes | tuple[Any, int]


class Audio(Protocol):
    """One audio; equal ones are encoded once, and `str` names it in messages."""

    @property
    def text(self) -> str:
        """Its transcription, "" where none is known."""

    def measured(self) -> tuple[np.ndarray, Levels]:
        """float32 mono 16 kHz [samples] and the levels that rules judge; raises AudioError if it does not decode."""


class Askable(Protocol):
    """One prompt: `messages` as chat templates take them, with `<|AUDIO|>` once per clip, in the clips' order.

    Several prompts may share an `id`, which lists name; `key` is a prompt's own.
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

    `number` tells it from others of the same prompt.
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
        """The samples as a model hears them, and their levels; see `Audio`."""
        if isinstance(self.source, Path):
            return decode.measured(self.source)
        if isinstance(self.source, bytes):
            if not self.source:
                raise AudioError("the bytes are empty")
            return decode.measured(io.BytesIO(self.source))
        return decode.measured_samples(*self.source)


def recordings(audio: Given | Sequence[Given], text: str | Sequence[str | None] | None = None) -> tuple[Recording, ...]:
    """A caller's audio, or a list of several or none, each with its transcription; UserError where it is neither.

    `text` is the transcription of a single clip, or a list with one for each.
    """
    clips = list(audio) if isinstance(audio, list) else [audio]
    texts = list(text) if isinstance(text, list | tuple) else [cast(str | None, text)]
    if not any(texts):
        texts = [None] * len(clips)
    if wrong := [each for each in texts if not isinstance(each, str | None)]:
        raise UserError(f"text: a transcription of type {type(wrong[0]).__name__}; give texts")
    if len(texts) != len(clips):
        raise UserError(
            f"text: {len(texts)} for {len(clips)} clips; give a transcription for each, empty where there is none"
        )
    return tuple(
        Recording(_source(one, number), said or "", number if len(clips) > 1 else None)
        for number, (one, said) in enumerate(zip(clips, texts, strict=True), 1)
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
    """A question about recordings, which a `hint` may precede."""

    clips: tuple[Recording, ...]
    question: str
    hint: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.question, str) or not self.question.strip():
            raise UserError(f"question {self.question!r}: it is empty; give a text")

    @property
    def id(self) -> str:
        """What messages call it: its recordings' names."""
        return ", ".join(map(str, self.clips)) or "question"

    @property
    def key(self) -> str:
        """The same; there is one prompt."""
        return self.id

    @property
    def messages(self) -> list[dict]:
        """One turn of the user, as benchmarks have it."""
        return [{"role": "user", "content": user_content(self.question, self.hint, len(self.clips))}]


def as_sample(asked: Askable, answer: str | None = None) -> Sample:
    """A prompt as the models take it; its audio is given apart, as states."""
    record = {
        "id": asked.key,
        "audios": [{"path": str(clip), "text": clip.text} for clip in asked.clips],
        "messages": list(asked.messages),
        "response": answer,
    }
    return Sample(asked.key, cast(PromptRecord, record), [])  # benchmarks check what they read


def different_clips(prompts: Iterable[Askable]) -> list[Audio]:
    """The clips of prompts, each once, in order of appearance."""
    return list(dict.fromkeys(clip for asked in prompts for clip in asked.clips))
