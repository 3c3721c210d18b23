"""Load a model and answer questions about recordings."""

import warnings
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import torch

from caad_ds.generation.clips import Clips
from caad_ds.generation.decoding import Contrast
from caad_ds.generation.decoding_settings import Decoding, check_counts, gate_fault, sampling_fault
from caad_ds.generation.prepared_prompt import PreparedPrompt, prepare_prompt
from caad_ds.generation.question import Askable, AudioInput, Question, as_sample, recordings
from caad_ds.models import auto, negatives
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.reader import NO_TRANSCRIPT, Reader
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.model_names import model_folder

A = TypeVar("A", bound=Askable)


def load(model: str | Path, device: str | None = None, dtype: str | torch.dtype = "float32") -> "Model":
    """Load a model with its tokenizer and audio processing.

    Args:
        model: the folder of a model, or of the run that trained it, or a hub id.
        device: "cpu", "cuda", "cuda:1", ...; None: "cuda" if there is one.
        dtype: "float32" or "bfloat16"; an encoder outside the model stays in float32.

    Raises:
        UserError: the folder holds no model that loads, or the device is not there.
    """
    return Model.load(model_folder(str(model)), pick_device(device), dtype)


@dataclass(frozen=True)
class Model:
    """A model with its tokenizer and audio processing, on one device, in inference mode."""

    lm: AudioLM
    device: torch.device
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)  # one answer at a time

    @staticmethod
    def load(folder: str | Path, device: torch.device, dtype: str | torch.dtype = "float32") -> "Model":
        """Load the model of a folder or hub id; an encoder outside the model stays in float32."""
        lm = auto.load(folder, _dtype(dtype))
        lm.module.eval()
        lm.to(device)
        lm.reader.limit(lm.reader.prompts.max_answer_tokens, lm.position_limit, "the model")
        return Model(lm, device)

    @property
    def reader(self) -> Reader:
        """The reader that builds its batches."""
        return self.lm.reader

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of prompts and answers."""
        return self.reader.tokenizer

    def clips(self, others: Iterable[Askable] = ()) -> Clips:
        """Return a `Clips`, which encodes the audio of prompts; negative `shuffled` takes audio from `others`."""
        return Clips(self.lm, self.device, others)

    def answer(
        self,
        audio: AudioInput | Sequence[AudioInput],
        question: str,
        text: str | Sequence[str | None] | None = None,
        *,
        hint: str | None = None,
        max_new_tokens: int = 16,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        contrast_alpha: float | None = None,
        negative: str = "zero_mel",
        plausibility: float | None = None,
        alpha_gate: str = "none",
        gate_m: float = 2.0,
    ) -> str:
        """Answer a question about a recording, as `caad-ds evaluate` answers an item of a benchmark.

        Args:
            audio: a file's path, the bytes of a file, or samples [frames] or [frames, channels] with their rate in Hz
                (floats of full scale 1, or signed integers). A list holds several clips, in the order of the prompt, or
                none.
            question: follows the audio in the user's turn.
            text: transcription of the recording, a list for several clips; used if the model was trained with
                transcriptions, else ignored with a warning.
            hint: a statement before the question, as in benchmarks with conflicting hints.
            max_new_tokens: maximum length of the answer.
            temperature: sample from softmax(z / temperature); None: greedy.
            top_p: nucleus sampling with this cumulative probability.
            top_k: sample from the top_k likeliest tokens.
            seed: of the sampling; the same seed gives the same answer to a question (default 0).
            contrast_alpha: alpha of contrastive decoding, in two passes; None: a single pass.
            negative: input that replaces the audio in the second pass: zero_mel, silence, noise or text_only.
            plausibility: keep tokens with p >= plausibility * max p of the pass with audio (contrast only).
            alpha_gate: text_certainty (experimental) lowers alpha where the pass without audio is unsure; or none.
            gate_m: the gate's m: no contrast once the entropy reaches that of m equally likely tokens.

        Returns:
            The answer without special tokens. A doubtful recording, such as silence, and a text with characters
            that the tokenizer does not know are answered with a warning.

        Raises:
            UserError: the audio does not decode or exceeds the encoder's window, the texts make no prompt, or an option
                is out of range.
        """
        return self._prepare(
            audio, question, text, hint,
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed,
            contrast_alpha=contrast_alpha, negative=negative, plausibility=plausibility, alpha_gate=alpha_gate,
            gate_m=gate_m,
        ).answer()  # fmt: skip

    def stream(
        self,
        audio: AudioInput | Sequence[AudioInput],
        question: str,
        text: str | Sequence[str | None] | None = None,
        *,
        hint: str | None = None,
        **decoding: Any,
    ) -> Generator[str, None, None]:
        """Yield the answer of `answer` in pieces, as they are generated.

        Takes the arguments of `answer`; mistakes in them are raised at once. Closing the iterator early stops the
        model; until it ends or is closed, further questions to the model wait.
        """
        return self._prepare(audio, question, text, hint, **decoding).stream()

    def prepare_prompt(self, clips: Clips, question: Question, decoding: Decoding) -> PreparedPrompt:
        """Prepare a question about recordings, which `clips` encodes; raises UserError like `answer`."""
        return prepare_prompt(self.lm, self.lock, clips, question, decoding)

    def _prepare(
        self,
        audio: AudioInput | Sequence[AudioInput],
        question: str,
        text: str | Sequence[str | None] | None,
        hint: str | None,
        **decoding: Any,
    ) -> PreparedPrompt:
        settings = _decoding(**decoding)
        prompt = Question(recordings(audio, text), question, hint)
        if self.reader.transcript == NO_TRANSCRIPT and any(clip.text for clip in prompt.clips):
            warnings.warn("text: this model's prompt holds no transcription; it is not used", stacklevel=3)
        clips = self.clips()
        prepared = self.prepare_prompt(clips, prompt, settings)
        for clip, doubt in clips.doubtful.items():
            warnings.warn(f"audio {clip}: {doubt}", stacklevel=3)
        if doubt := self.reader.prompts.doubt(as_sample(prompt).record):
            warnings.warn(f"prompt: {doubt}", stacklevel=3)
        return prepared

    def askable(self, items: Iterable[A], room: int, refused: dict[str, str]) -> list[A]:
        """Return the items whose prompts are valid and leave `room` tokens for an answer.

        Adds the reason for each other item to `refused`, by its id.
        """
        kept = []
        for item in items:
            try:
                self.reader.check(as_sample(item), with_answer=False, room=room)
                kept.append(item)
            except UserError as error:
                refused.setdefault(item.id, f"prompt: {error}")
        return kept


def _decoding(**given: Any) -> Decoding:
    """Return the settings of an answer; messages name keywords here, and command-line options in `Decoding`."""
    settings = {**{option.name: option.default for option in fields(Decoding)}, **given}
    check_counts(max_new_tokens=settings["max_new_tokens"], top_k=settings["top_k"])
    if settings["plausibility"] is not None and settings["contrast_alpha"] is None:
        raise UserError("plausibility: belongs to contrastive decoding; give contrast_alpha as well")
    if fault := gate_fault(settings["contrast_alpha"], settings["alpha_gate"], settings["gate_m"]):
        raise UserError("{} {}: {}".format(*fault))
    if message := sampling_fault(settings["temperature"], settings["top_p"], settings["top_k"], settings["seed"]):
        raise UserError(message.format("temperature"))
    if settings["contrast_alpha"] is not None:
        Contrast(settings["contrast_alpha"], settings["negative"], settings["plausibility"])
    negatives.find(settings["negative"])
    return Decoding(**settings)


def _dtype(name: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"dtype {name}: no floating-point type of PyTorch; give float32 or bfloat16")
    return found
