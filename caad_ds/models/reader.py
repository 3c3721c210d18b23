"""What a model reads of samples: its own template, placeholders and features, without its weights."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from caad_ds.data.audio.decoded import Sample
from caad_ds.data.audio.levels import SAMPLE_RATE
from caad_ds.data.batch import IGNORE, Audio, Batch
from caad_ds.models.prompts.prompt_encoder import Encoded, PromptEncoder, tokenization
from caad_ds.utils.errors import UserError

AFTER_AUDIO, NO_TRANSCRIPT = "after_audio", "none"
TRANSCRIPT = "caad_transcript"  # key in tokenizer_config.json, where a model's is not what its family has


def holds_transcripts(tokenizer: Any) -> bool:
    """Whether the prompts of a model of our own family hold transcriptions, by its tokenizer's settings."""
    return tokenizer.init_kwargs.get(TRANSCRIPT, AFTER_AUDIO) == AFTER_AUDIO


@dataclass(frozen=True)
class Features:
    """What a model takes of U audios: `audio` has a row for each, `positions` how many each has in the text."""

    audio: Audio
    positions: list[int]


class Reader(ABC):
    """From samples to a batch of one model.

    `longest_seconds` and `shortest_seconds` bound the audio that the model takes, `most_audios` their number in a
    prompt, where it is bounded. `window` is the number of samples
    that every audio is padded to where nothing tells the model how long it was: silence is then always the same.
    """

    family: str
    prompts: PromptEncoder
    longest_seconds: float
    shortest_seconds: float = 0.0
    most_audios: int | None = None
    window: int | None = None

    def __init__(self) -> None:
        self._constants: dict[str, Features] = {}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of prompts and answers, its chat template frozen."""
        return self.prompts.tokenizer

    @property
    def transcript(self) -> str:
        """Whether `audios[].text` stands in the prompt: `after_audio` or `none`."""
        return AFTER_AUDIO if self.prompts.transcripts else NO_TRANSCRIPT

    def set_transcript(self, transcript: str | None) -> None:
        """Let the transcription stand in the prompt (`after_audio`) or not (`none`); None: as the model has it.

        It is kept in the tokenizer's settings, so that the saved model has it.
        """
        if transcript is not None:
            self.prompts.transcripts = transcript == AFTER_AUDIO
            self.tokenizer.init_kwargs[TRANSCRIPT] = transcript

    def limit(self, max_answer_tokens: int, positions: int | None, model: str) -> None:
        """Cut answers at `max_answer_tokens`, and refuse what exceeds the `positions` of `model`, named so."""
        self.prompts.max_answer_tokens, self.prompts.limit, self.prompts.model = max_answer_tokens, positions, model

    @abstractmethod
    def features(self, waveforms: Sequence[np.ndarray]) -> Features:
        """The model's audio inputs of U mono 16 kHz waveforms, on the CPU."""

    @abstractmethod
    def positions_of(self, seconds: float) -> int:
        """How many positions an audio of that length has, at most."""

    def positions(self, sample: Sample) -> list[int]:
        """How many positions each audio of a sample has, at most; its audio is perhaps not decoded yet."""
        return [self.positions_of(seconds) for seconds in self._seconds(sample)]

    @abstractmethod
    def features_identity(self) -> dict[str, Any]:
        """What the audio inputs depend on beside the waveforms, by name."""

    def identity(self) -> dict[str, Any]:
        """What batches depend on beside the samples, by name; equal for two readers that read every sample alike."""
        text = {**tokenization(self.tokenizer), "transcript": self.transcript, "family": self.family}
        return text | self.features_identity()

    def check_audio(self, waveforms: Sequence[np.ndarray], where: str) -> None:
        """Raise UserError, beginning with `where`, for a waveform that is longer or shorter than the model takes."""
        seconds = min(map(len, waveforms), default=SAMPLE_RATE) / SAMPLE_RATE
        if seconds < self.shortest_seconds:
            raise UserError(
                f"{where}an audio of {seconds:.3f} s is shorter than the {self.shortest_seconds:g} s that the model "
                "takes; leave it out"
            )
        seconds = max(map(len, waveforms), default=0) / SAMPLE_RATE
        if seconds > self.longest_seconds:
            raise UserError(
                f"{where}an audio of {seconds:.2f} s exceeds the model's window of {self.longest_seconds:g} s; reject "
                f"or split such clips at ingest (--max-seconds {self.longest_seconds:g})"
            )

    def check_number(self, sample: Sample) -> None:
        """Raise UserError for a sample of more audios than the model takes in a prompt."""
        number = len(sample.record["audios"])
        if self.most_audios is not None and number > self.most_audios:
            raise UserError(
                f"sample {sample.key}: it has {number} audios, and a {self.family} model takes {self.most_audios} in a "
                "prompt; leave it out"
            )

    def check(
        self, sample: Sample, *, with_answer: bool = True, room: int = 0, answer: Sequence[int] | None = None
    ) -> Encoded:
        """Encode a sample's texts, its audio perhaps not decoded yet.

        UserError, which names it, if they make no prompt, or leave no `room` in the model's positions, or if the model
        does not take audio of that length. `answer` are ids of an answer to take instead of its own.
        """
        self.check_number(sample)
        self.check_audio(sample.waveforms, f"sample {sample.key}: ")
        positions = self.positions(sample)
        return self.prompts.check(sample, with_answer=with_answer, room=room, positions=positions, answer=answer)

    def length(self, sample: Sample) -> int:
        """How many tokens prompt and answer of a sample take, its audio at its most; UserError as of `check`."""
        encoded = self.check(sample)
        return len(encoded.prompt) + len(encoded.answer[: self.prompts.max_answer_tokens])

    def collate(
        self,
        samples: Sequence[Sample],
        *,
        pad: str = "right",
        with_answer: bool = True,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> Batch:
        """The batch of samples; an audio that several share is there once.

        Args:
            pad: the side of the padding, "left" for generation.
            with_answer: whether the records' answers follow the prompts.
            answers: ids of answers to take instead of the records' own.

        Raises:
            UserError: naming the sample that makes no prompt, or whose audio is too long.
        """
        for sample in samples:
            self.check_audio(sample.waveforms, f"sample {sample.key}: ")
        features, index = self._different([waveform for sample in samples for waveform in sample.waveforms])
        return self.placed(samples, features, index, pad=pad, with_answer=with_answer, answers=answers)

    def placed(
        self,
        samples: Sequence[Sample],
        features: Features,
        index: Sequence[int],
        *,
        pad: str = "right",
        with_answer: bool = True,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> Batch:
        """The batch of samples whose audios are rows `index` of `features`, extracted before; see `collate`."""
        for sample in samples:
            self.check_number(sample)
        positions = [features.positions[row] for row in index]
        batch = self.prompts.batch(samples, pad=pad, with_answer=with_answer, positions=positions, answers=answers)
        return batch.with_audio(features.audio, torch.tensor(index, dtype=torch.long), batch.audio_positions)

    def replaced(self, batch: Batch, waveforms: Sequence[np.ndarray]) -> Batch:
        """The batch with these waveforms, one for each of its A audios, in their place."""
        features, index = self._different(waveforms)
        positions = torch.tensor([features.positions[row] for row in index], dtype=torch.long)
        return batch.with_audio(features.audio, torch.tensor(index, dtype=torch.long), positions)

    def constant(self, batch: Batch, name: str, make: Callable[[], Features]) -> Batch:
        """The batch with one row of audio, which `make` gives once, in the place of each audio."""
        features = self._constants.get(name)
        if features is None:
            features = self._constants[name] = make()
        index = torch.zeros_like(batch.audio_index)
        return batch.with_audio(features.audio, index, batch.audio_positions, constant=name)

    def only_audio(self, waveform: np.ndarray | None = None) -> Batch:
        """The batch of a sample that is nothing but an audio; None: a short one."""
        features = self.features([self.shortest() if waveform is None else waveform])
        [count] = features.positions
        ids = torch.full((1, count), self.prompts.placeholder)
        ones, no_answer = torch.ones_like(ids), torch.full_like(ids, IGNORE)
        place = (torch.tensor([0]), torch.tensor([0]), torch.tensor([count]))
        return Batch([""], ids, ones, ones.bool(), no_answer, features.audio, *place)

    def shortest(self) -> np.ndarray:
        """A waveform that the model takes, as short as may be."""
        return np.zeros(SAMPLE_RATE // 5, np.float32)

    def _different(self, waveforms: Sequence[np.ndarray]) -> tuple[Features, list[int]]:
        """Features of the different ones of A waveforms, and which row each is.

        Of no audio there is a row that stands nowhere: what is trained on it runs in every batch.
        """
        different: dict[bytes, int] = {}
        index = [different.setdefault(waveform.tobytes(), len(different)) for waveform in waveforms]
        heard = [np.frombuffer(waveform, np.float32) for waveform in different]
        return self.features(heard or [self.shortest()]), index

    def _seconds(self, sample: Sample) -> list[float]:
        """The length of each audio of a sample: as decoded, else as the record says, else the longest there can be."""
        if sample.waveforms:
            return [len(waveform) / SAMPLE_RATE for waveform in sample.waveforms]
        told = [audio.get("duration") for audio in sample.record["audios"]]
        return [seconds if isinstance(seconds, (int, float)) else self.longest_seconds for seconds in told]
