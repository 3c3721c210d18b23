"""A model folder as it answers: the model on a device, prompts as batches, one recording and a question as text."""

import warnings
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import torch

from caad_ds.generation.asking import Prompted, prompted
from caad_ds.generation.clips import Clips
from caad_ds.generation.decoding import Contrast
from caad_ds.generation.decoding_settings import Decoding, check_counts, gate_fault, sampling_fault
from caad_ds.generation.question import Askable, Given, Question, as_sample, recordings
from caad_ds.models import auto, negatives
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.reader import NO_TRANSCRIPT, Reader
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.paths import model_folder

A = TypeVar("A", bound=Askable)


def load(model: str | Path, device: str | None = None, dtype: str | torch.dtype = "float32") -> "Model":
    """Load a model with what reads its prompts and audio.

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
    """A model with all that belongs to it, on one device, in inference mode."""

    lm: AudioLM
    device: torch.device
    turn: Lock = field(default_factory=Lock, repr=False, compare=False)  # of the answers that callers ask for

    @staticmethod
    def load(folder: str | Path, device: torch.device, dtype: str | torch.dtype = "float32") -> "Model":
        """The model of a folder or hub id; an encoder outside the model stays in float32."""
        lm = auto.load(folder, _dtype(dtype))
        lm.module.eval()
        lm.to(device)
        lm.reader.limit(lm.reader.prompts.max_answer_tokens, lm.position_limit, "the model")
        return Model(lm, device)

    @property
    def reader(self) -> Reader:
        """What makes its batches."""
        return self.lm.reader

    @property
    def tokenizer(self) -> Any:
        """Of prompts and answers."""
        return self.reader.tokenizer

    def clips(self, others: Iterable[Askable] = ()) -> Clips:
        """What reads and encodes the audio of prompts; `others` are those that negative `shuffled` takes audio from."""
        return Clips(self.lm, self.device, others)

    def answer(
        self,
        audio: Given | Sequence[Given],
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
                (floats of full scale 1, or signed integers). A list has several clips, which the prompt holds in this
                order, or none.
            question: put to the model in a turn of the user, after the audio.
            text: the recording's transcription, which the prompt holds beside the audio where the model was trained so
                (with a warning if not); of several clips a list.
            hint: a statement before the question, as benchmarks of conflicts have it.
            max_new_tokens: the longest answer.
            temperature: sample from softmax(z / temperature); None: greedily.
            top_p: of the sampling: from the likeliest tokens of this cumulative probability.
            top_k: of the sampling: from so many likeliest tokens.
            seed: of the sampling; the same one gives the same answer to a question (default 0).
            contrast_alpha: decode contrastively with this alpha, in two passes; None: in one.
            negative: what replaces the audio in the second pass: zero_mel, silence, noise or text_only.
            plausibility: of the contrast: keep tokens with p >= plausibility * max p of the pass with the audio.
            alpha_gate: of the contrast: text_certainty (experimental) lowers alpha where the pass without it is unsure.
            gate_m: the gate's m: no contrast from the entropy of so many equally likely tokens on.

        Returns:
            The answer without special tokens. A recording that a rule of usable audio finds doubtful, such as silence,
            is answered all the same, with a warning.

        Raises:
            UserError: the audio does not decode or exceeds the encoder's window, the texts make no prompt, or an option
                is out of its range.
        """
        return self._prompted(
            audio, question, text, hint,
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed,
            contrast_alpha=contrast_alpha, negative=negative, plausibility=plausibility, alpha_gate=alpha_gate,
            gate_m=gate_m,
        ).answer()  # fmt: skip

    def stream(
        self,
        audio: Given | Sequence[Given],
        question: str,
        text: str | Sequence[str | None] | None = None,
        *,
        hint: str | None = None,
        **decoding: Any,
    ) -> Generator[str, None, None]:
        """Answer in pieces of text, as they are written; joined they are what `answer` returns.

        The arguments are those of `answer`, and mistakes in them are raised at once. An iterator that is left before
        its end stops the model; until then a further question to it waits for its answer.
        """
        return self._prompted(audio, question, text, hint, **decoding).stream()

    def prompted(self, clips: Clips, asked: Question, decoding: Decoding) -> Prompted:
        """Prepare a question about recordings that `clips` encodes; UserError as of `answer`."""
        return prompted(self.lm, self.turn, clips, asked, decoding)

    def _prompted(
        self,
        audio: Given | Sequence[Given],
        question: str,
        text: str | Sequence[str | None] | None,
        hint: str | None,
        **decoding: Any,
    ) -> Prompted:
        how = _decoding(**decoding)
        asked = Question(recordings(audio, text), question, hint)
        if self.reader.transcript == NO_TRANSCRIPT and any(clip.text for clip in asked.clips):
            warnings.warn("text: this model's prompt holds no transcription; it is not used", stacklevel=3)
        clips = self.clips()
        made = self.prompted(clips, asked, how)
        for clip, doubt in clips.doubtful.items():
            warnings.warn(f"audio {clip}: {doubt}", stacklevel=3)
        return made

    def askable(self, items: Iterable[A], room: int, refused: dict[str, str]) -> list[A]:
        """The items whose prompts can be written and leave `room` tokens for an answer.

        The reason why another item cannot be asked is put into `refused`, by its id.
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
    """The settings of an answer; messages name its keywords, where those of `Decoding` name a command's options."""
    how = {**{option.name: option.default for option in fields(Decoding)}, **given}
    check_counts(max_new_tokens=how["max_new_tokens"], top_k=how["top_k"])
    if how["plausibility"] is not None and how["contrast_alpha"] is None:
        raise UserError("plausibility: belongs to contrastive decoding; give contrast_alpha as well")
    if fault := gate_fault(how["contrast_alpha"], how["alpha_gate"], how["gate_m"]):
        raise UserError("{} {}: {}".format(*fault))
    if told := sampling_fault(how["temperature"], how["top_p"], how["top_k"], how["seed"]):
        raise UserError(told.format("temperature"))
    if how["contrast_alpha"] is not None:
        Contrast(how["contrast_alpha"], how["negative"], how["plausibility"])
    negatives.find(how["negative"])
    return Decoding(**how)


def _dtype(name: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"dtype {name}: no floating-point type of PyTorch; give float32 or bfloat16")
    return found
