"""What a model is asked: a prompt about one or several audios, of a benchmark or of a caller's own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from caad_ds.data.audio import decode
from caad_ds.data.audio.decoded import Sample
from caad_ds.data.audio.levels import Levels
from caad_ds.data.markers import user_content
from caad_ds.data.record import PromptRecord


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
    """A caller's audio: a file, or samples [frames] or [frames, channels] and their rate in Hz."""

    source: Path | tuple[np.ndarray, int]
    text: str = ""

    def __str__(self) -> str:
        return str(self.source) if isinstance(self.source, Path) else "samples"

    def measured(self) -> tuple[np.ndarray, Levels]:
        """The samples as a model hears them, and their levels; see `Audio`."""
        if isinstance(self.source, Path):
            return decode.measured(self.source)
        return decode.measured_samples(*self.source)


@dataclass(frozen=True)
class Question:
    """A question about one recording, which a `hint` may precede."""

    recording: Recording
    question: str
    hint: str | None = None

    @property
    def id(self) -> str:
        """What messages call it: its recording's name."""
        return str(self.recording)

    @property
    def key(self) -> str:
        """The same; there is one prompt."""
        return self.id

    @property
    def clips(self) -> tuple[Recording]:
        """Its one recording."""
        return (self.recording,)

    @property
    def messages(self) -> list[dict]:
        """One turn of the user, as benchmarks have it."""
        return [{"role": "user", "content": user_content(self.question, self.hint)}]


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
