"""Make a model's batches of samples: its template, placeholders and features, without its weights."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.data.batch import IGNORE, Audio, Batch
from caad_ds.data.decoded_sample import Sample
from caad_ds.models.prompts.prompt_encoder import Encoded, PromptEncoder, tokenization
from caad_ds.utils.errors import UserError

AFTER_AUDIO, NO_TRANSCRIPT = "after_audio", "none"
TRANSCRIPT = "caad_transcript"  # key in tokenizer_config.json, if a model differs from its family


def holds_transcripts(tokenizer: Any) -> bool:
    """Return whether prompts of a model of our own family contain transcriptions, by its tokenizer's settings."""
    return tokenizer.init_kwargs.get(TRANSCRIPT, AFTER_AUDIO) == AFTER_AUDIO


@dataclass(frozen=True)
class Features:
    """A model's inputs of U audios: `audio` has a row for each, `positions` their numbers of positions in the text."""

    audio: Audio
    positions: list[int]


class Reader(ABC):
    """Makes batches of one model from samples.

    `longest_seconds` and `shortest_seconds` bound the audio that the model takes, `most_audios` the number in a prompt,
    if it is limited. `window` is the number of samples that all audio is padded to if the model has no mask: silence is
    then always the same.
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
        """Whether the prompt contains `audios[].text`: `after_audio` or `none`."""
        return AFTER_AUDIO if self.prompts.transcripts else NO_TRANSCRIPT

    def set_transcript(self, transcript: str | None) -> None:
        """Write the transcription in the prompt (`after_audio`) or not (`none`); None: as the model has it.

        It is stored in the tokenizer's settings, and saved with the model.
        """
        if transcript is not None:
            self.prompts.transcripts = transcript == AFTER_AUDIO
            self.tokenizer.init_kwargs[TRANSCRIPT] = transcript

    def limit(self, max_answer_tokens: int, positions: int | None, model: str) -> None:
        """Cut answers at `max_answer_tokens`, and refuse samples that exceed `positions`; errors name `model`."""
        self.prompts.max_answer_tokens, self.prompts.limit, self.prompts.model = max_answer_tokens, positions, model

    @abstractmethod
    def features(self, waveforms: Sequence[np.ndarray]) -> Features:
        """Compute the model's audio inputs of U mono 16 kHz waveforms, on the CPU."""

    @abstractmethod
    def positions_of(self, seconds: float) -> int:
        """Return the most positions of an audio of that length."""

    def positions(self, sample: Sample) -> list[int]:
        """Return the most positions of each audio of a sample, which need not be decoded yet."""
        return [self.positions_of(seconds) for seconds in self._seconds(sample)]

    @abstractmethod
    def features_identity(self) -> dict[str, Any]:
        """Return what the audio inputs depend on besides the waveforms, by name."""

    def identity(self) -> dict[str, Any]:
        """Return what batches depend on besides samples, by name; equal for readers that read every sample alike."""
        text = {**tokenization(self.tokenizer), "transcript": self.transcript, "family": self.family}
        return text | self.features_identity()

    def check_audio(self, waveforms: Sequence[np.ndarray], where: str) -> None:
        """Raise UserError, beginning with `where`, for a waveform that is too long or too short for the model."""
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
        """Raise UserError for a sample with more audios than the model takes in a prompt."""
        number = len(sample.record["audios"])
        if self.most_audios is not None and number > self.most_audios:
            raise UserError(
                f"sample {sample.key}: it has {number} audios, and a {self.family} model takes {self.most_audios} in a "
                "prompt; leave it out"
            )

    def check(
        self, sample: Sample, *, with_answer: bool = True, room: int = 0, answer: Sequence[int] | None = None
    ) -> Encoded:
        """Encode a sample's texts; its audio need not be decoded yet.

        UserError names it if they make no prompt, or leave no `room` in the model's positions, or if the model does not
        take audio of that length. `answer`: ids to use instead of its own answer.
        """
        self.check_number(sample)
        self.check_audio(sample.waveforms, f"sample {sample.key}: ")
        positions = self.positions(sample)
        return self.prompts.check(sample, with_answer=with_answer, room=room, positions=positions, answer=answer)

    def length(self, sample: Sample) -> int:
        """Return the most tokens of a sample's prompt and answer; UserError as in `check`."""
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
        """Collate samples; an audio that several share is in the batch once.

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
        """Collate samples whose audios are rows `index` of already extracted `features`; see `collate`."""
        for sample in samples:
            self.check_number(sample)
        positions = [features.positions[row] for row in index]
        batch = self.prompts.batch(samples, pad=pad, with_answer=with_answer, positions=positions, answers=answers)
        return batch.with_audio(features.audio, torch.tensor(index, dtype=torch.long), batch.audio_positions)

    def replaced(self, batch: Batch, waveforms: Sequence[np.ndarray]) -> Batch:
        """Replace the batch's A audios by these waveforms."""
        features, index = self._different(waveforms)
        positions = torch.tensor([features.positions[row] for row in index], dtype=torch.long)
        return batch.with_audio(features.audio, torch.tensor(index, dtype=torch.long), positions)

    def constant(self, batch: Batch, name: str, make: Callable[[], Features]) -> Batch:
        """Replace each audio of the batch by the same row, which `make` computes once."""
        features = self._constants.get(name)
        if features is None:
            features = self._constants[name] = make()
        index = torch.zeros_like(batch.audio_index)
        return batch.with_audio(features.audio, index, batch.audio_positions, constant=name)

    def only_audio(self, waveform: np.ndarray | None = None) -> Batch:
        """Make a batch of one sample with nothing but an audio; None: a short one."""
        features = self.features([self.shortest() if waveform is None else waveform])
        [count] = features.positions
        ids = torch.full((1, count), self.prompts.placeholder)
        ones, no_answer = torch.ones_like(ids), torch.full_like(ids, IGNORE)
        location = (torch.tensor([0]), torch.tensor([0]), torch.tensor([count]))
        return Batch([""], ids, ones, ones.bool(), no_answer, features.audio, *location)

    def shortest(self) -> np.ndarray:
        """Return a short waveform that the model takes."""
        return np.zeros(SAMPLE_RATE // 5, np.float32)

    def _different(self, waveforms: Sequence[np.ndarray]) -> tuple[Features, list[int]]:
        """Return features of the distinct ones among A waveforms, and the row of each.

        Without audio there is one unused row: modules trained on audio run in every batch.
        """
        different: dict[bytes, int] = {}
        index = [different.setdefault(waveform.tobytes(), len(different)) for waveform in waveforms]
        distinct = [np.frombuffer(waveform, np.float32) for waveform in different]
        return self.features(distinct or [self.shortest()]), index

    def _seconds(self, sample: Sample) -> list[float]:
        """Return the length of each audio of a sample: as decoded, else as in the record, else the longest possible."""
        if sample.waveforms:
            return [len(waveform) / SAMPLE_RATE for waveform in sample.waveforms]
        durations = [audio.get("duration") for audio in sample.record["audios"]]
        return [seconds if isinstance(seconds, (int, float)) else self.longest_seconds for seconds in durations]
