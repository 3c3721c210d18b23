"""A model folder as it answers: the model on a device, prompts as batches, one recording and a question as text."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from caad_ds.generation.clips import Clips
from caad_ds.generation.decoding import Contrast, decode
from caad_ds.generation.decoding_settings import check_counts, gate_fault
from caad_ds.generation.question import Askable, Question, Recording, as_sample
from caad_ds.models import auto
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.reader import Reader
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
        audio: str | Path | tuple[np.ndarray, int],
        question: str,
        text: str | None = None,
        *,
        hint: str | None = None,
        max_new_tokens: int = 16,
        contrast_alpha: float | None = None,
        negative: str = "zero_mel",
        plausibility: float | None = None,
        alpha_gate: str = "none",
        gate_m: float = 2.0,
    ) -> str:
        """Answer a question about a recording, as `caad-ds evaluate` answers an item of a benchmark.

        Args:
            audio: a file's path, or samples [frames] or [frames, channels] with their rate in Hz: floats of full scale
                1, or signed integers.
            question: put to the model in a turn of the user, after the audio.
            text: the recording's transcription, which the prompt holds beside the audio.
            hint: a statement before the question, as benchmarks of conflicts have it.
            max_new_tokens: the longest answer.
            contrast_alpha: decode contrastively with this alpha, in two passes; None: greedily, in one.
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
        check_counts(max_new_tokens=max_new_tokens)
        if plausibility is not None and contrast_alpha is None:
            raise UserError("plausibility: belongs to contrastive decoding; give contrast_alpha as well")
        if fault := gate_fault(contrast_alpha, alpha_gate, gate_m):
            raise UserError("{} {}: {}".format(*fault))
        recording = Recording(audio if isinstance(audio, tuple) else Path(audio), text or "")
        asked = [Question(recording, question, hint)]
        self.reader.check(as_sample(asked[0]), with_answer=False, room=max_new_tokens)
        clips = self.clips()
        if not clips.hear(asked):
            raise UserError(f"audio {recording}: {clips.failed[recording]}")
        if recording in clips.doubtful:
            warnings.warn(f"audio {recording}: {clips.doubtful[recording]}", stacklevel=2)
        batch, contrasted, second = clips.prompts(asked), None, None
        if contrast_alpha is not None:
            contrasted = Contrast(contrast_alpha, negative, plausibility, alpha_gate, gate_m)
            second = clips.negative(asked, batch, negative)
        [said] = decode(self.lm, batch, max_new_tokens=max_new_tokens, contrasted=contrasted, negative=second)
        return said

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


def _dtype(name: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"dtype {name}: no floating-point type of PyTorch; give float32 or bfloat16")
    return found
