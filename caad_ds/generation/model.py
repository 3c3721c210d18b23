"""A model folder as it answers: the model on a device, prompts as batches, one recording and a question as text."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from caad_ds.data.batch import Batch
from caad_ds.generation.clips import Clips
from caad_ds.generation.decoding import Contrast, decode
from caad_ds.generation.decoding_settings import check_counts
from caad_ds.generation.question import Askable, Question, Recording, as_sample, different_clips
from caad_ds.models.language_model.llm import position_limit
from caad_ds.models.negatives import Negative
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.speech_lm import folder as speech_folder
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.device import pick_device
from caad_ds.utils.errors import UserError
from caad_ds.utils.paths import model_folder

A = TypeVar("A", bound=Askable)


def load(model: str | Path, device: str | None = None, dtype: str | torch.dtype = "float32") -> "Model":
    """Load a trained model with its encoder and tokenizer.

    Args:
        model: the folder of a trained SpeechLM, or of the run that trained it.
        device: "cpu", "cuda", "cuda:1", ...; None: "cuda" if there is one.
        dtype: of the language model and connector, "float32" or "bfloat16"; the encoder stays in float32.

    Raises:
        UserError: the folder holds no model that loads, or the device is not there.
    """
    return Model.load(model_folder(str(model)), pick_device(device), dtype)


@dataclass(frozen=True)
class Model:
    """A model with all that belongs to it, on one device, in inference mode."""

    model: SpeechLM
    encoder: SpeechEncoder
    tokenizer: Any
    prompter: PromptEncoder
    device: torch.device

    @staticmethod
    def load(folder: Path, device: torch.device, dtype: str | torch.dtype = "float32") -> "Model":
        """The model of a folder; the encoder stays in float32."""
        model, encoder, tokenizer = speech_folder.load(folder, _dtype(dtype))
        model.eval()
        for module in (model, encoder):
            torch.nn.Module.to(module, device)
        limit = position_limit(model.llm.config)
        return Model(model, encoder, tokenizer, PromptEncoder(tokenizer, model.config.num_queries, limit=limit), device)

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
        recording = Recording(audio if isinstance(audio, tuple) else Path(audio), text or "")
        asked = [Question(recording, question, hint)]
        self.prompter.check(as_sample(asked[0]), with_answer=False, room=max_new_tokens)
        clips = Clips(self.encoder)
        if not clips.hear(asked):
            raise UserError(f"audio {recording}: {clips.failed[recording]}")
        if recording in clips.doubtful:
            warnings.warn(f"audio {recording}: {clips.doubtful[recording]}", stacklevel=2)
        contrasted = None
        if contrast_alpha is not None:
            contrasted = Contrast(contrast_alpha, Negative.of(negative, self.encoder), plausibility)
        [said] = decode(
            self.model, self.tokenizer, self.prompts(asked), clips.states(asked),
            max_new_tokens=max_new_tokens, contrasted=contrasted,
        )  # fmt: skip
        return said

    def askable(self, items: Iterable[A], room: int, refused: dict[str, str]) -> list[A]:
        """The items whose prompts can be written and leave `room` tokens for an answer.

        The reason why another item cannot be asked is put into `refused`, by its id.
        """
        kept = []
        for item in items:
            try:
                self.prompter.check(as_sample(item), with_answer=False, room=room)
                kept.append(item)
            except UserError as error:
                refused.setdefault(item.id, f"prompt: {error}")
        return kept

    def prompts(self, items: Sequence[Askable]) -> Batch:
        """The left-padded prompts of items."""
        samples = [as_sample(item) for item in items]
        return self._placed(self.prompter.batch(samples, pad="left", with_answer=False), items)

    def answered(self, items: Sequence[Askable], answers: Sequence[str]) -> Batch:
        """Each item's prompt with a given answer after it."""
        samples = [as_sample(item, answer) for item, answer in zip(items, answers, strict=True)]
        return self._placed(self.prompter.batch(samples), items)

    def _placed(self, batch: Batch, items: Sequence[Askable]) -> Batch:
        """The batch with the index of each clip among the different ones, in the order of `Clips.states`."""
        number = {clip: place for place, clip in enumerate(different_clips(items))}
        index = torch.tensor([number[clip] for item in items for clip in item.clips])
        return replace(batch, audio_index=index).to(self.device)


def _dtype(name: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"dtype {name}: no floating-point type of PyTorch; give float32 or bfloat16")
    return found
