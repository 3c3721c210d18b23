"""Make batches with a transformers processor: its template, its placeholders, its features."""

import copy
import math
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.data.batch import Audio, joined
from caad_ds.models.family import Family
from caad_ds.models.language_model.tokenizer import TOKENIZER_FILES
from caad_ds.models.prompts.audio_spans import ContentParts
from caad_ds.models.prompts.chat_template import TemplateSettings, freeze_template
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.reader import AFTER_AUDIO, NO_TRANSCRIPT, TRANSCRIPT, Features, Reader
from caad_ds.utils.errors import UserError, first_line
from caad_ds.utils.files import read_json

NOT_AUDIO = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
WINDOWS = "windows"  # key of audio inputs: how many of an audio's windows [U, W, ...] are valid, int64 [U]
# By kind; one file of each must exist.
PROCESSOR_FILES = {
    "a feature extractor": ("processor_config.json", "preprocessor_config.json"),
    "the tokenizer's settings": ("tokenizer_config.json",),
    "a tokenizer": ("tokenizer.*", *TOKENIZER_FILES[1:]),
}


class ProcessorReader(Reader):
    """Gives an audio the processor's number of positions; a mask has its length.

    Prompts of published models have no transcription, unless the model's tokenizer_config.json says so.
    """

    def __init__(self, processor: Any, family: Family, template: TemplateSettings | None = None, **prompts: Any):
        super().__init__()
        self.of, self.family, self.processor = family, family.model_type, processor
        self.longest_seconds, self.shortest_seconds = family.longest_seconds(processor), family.shortest_seconds
        self.most_audios = family.most_audios
        rate = feature_extractor(processor).sampling_rate
        if rate != SAMPLE_RATE or not 0 < self.longest_seconds < math.inf:
            raise UserError(
                f"{processor.tokenizer.name_or_path}: its processor takes audio at {rate} Hz, at most "
                f"{self.longest_seconds:g} s of it, and here it is at {SAMPLE_RATE} Hz; take this model's processor"
            )
        tokenizer = processor.tokenizer
        tokenizer.chat_template = processor.chat_template or tokenizer.chat_template
        freeze_template(tokenizer, template)
        processor.chat_template = tokenizer.chat_template
        self._mark = processor.audio_token
        # A separate tokenizer: it keeps the padding of the last call, and would be saved with it.
        self._features = copy.copy(processor)
        self._features.tokenizer = copy.deepcopy(tokenizer)
        self.prompts = PromptEncoder(
            tokenizer,
            0,
            spans=self.spans(),
            transcripts=tokenizer.init_kwargs.get(TRANSCRIPT, NO_TRANSCRIPT) == AFTER_AUDIO,
            **prompts,
        )

    @classmethod
    def load(cls, family: Family, folder: str | Path, **reading: Any) -> "ProcessorReader":
        """Load a folder's processor; UserError if one of its files or packages is missing."""
        check_packages(family, str(folder))
        try:
            return cls(load_processor(Path(folder)), family, **reading)
        except UserError:
            raise
        except Exception as error:  # another family's processor or settings may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise UserError(
                f"{folder}: its processor is not that of a {family.model_type} ({reason}); give a complete folder"
            ) from error

    def spans(self) -> ContentParts:
        """Return how audio is written in the chat template's text."""
        return ContentParts(self._mark)

    def features(self, waveforms: Sequence[np.ndarray]) -> Features:
        """Return the processor's inputs, and the number of placeholders that it writes for each audio.

        If it cuts audio into windows, inputs have the shape [U, W, ...], W the most windows of an audio.
        """
        if not self.of.windows and not self.of.alone:
            return self.extracted(waveforms)
        each = [self.extracted([waveform]) for waveform in waveforms]
        positions = [count for one in each for count in one.positions]
        if not self.of.windows:
            return Features(joined([one.audio for one in each]), positions)
        counts = {WINDOWS: torch.tensor([len(next(iter(one.audio.values()))) for one in each])}
        audio = joined([{name: value[None] for name, value in one.audio.items()} for one in each])
        return Features({**audio, **counts}, positions)

    def extracted(self, waveforms: Sequence[np.ndarray]) -> Features:
        """Extract features of all waveforms in one call of the processor."""
        inputs = self._features(
            text=[self._mark] * len(waveforms),
            audio=list(waveforms),
            text_kwargs={"padding": True},
            audio_kwargs={"sampling_rate": SAMPLE_RATE, **self.audio_settings(waveforms)},
            return_tensors="pt",
        )
        positions = (inputs["input_ids"] == self.prompts.placeholder).sum(1).tolist()
        unused = (*NOT_AUDIO, *getattr(self.processor, "unused_input_names", ()))
        audio = {name: value for name, value in inputs.items() if isinstance(value, Tensor) and name not in unused}
        return Features(audio, positions)

    def audio_settings(self, waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return further settings of the processor for these waveforms."""
        return {}

    @staticmethod
    def inputs(audio: Audio) -> Audio:
        """Return the forward's audio inputs of placed audio: a row for each valid window."""
        if WINDOWS not in audio:
            return audio
        rest = {name: value for name, value in audio.items() if name != WINDOWS}
        most = next(iter(rest.values())).shape[1]
        own = torch.arange(most, device=audio[WINDOWS].device) < audio[WINDOWS][:, None]
        return {name: value[own] for name, value in rest.items()}

    def positions_of(self, seconds: float) -> int:
        """Return positions in proportion to the longest audio's, plus one for rounding."""
        return math.ceil(seconds * self._positions_per_second) + 1

    @cached_property
    def _positions_per_second(self) -> float:
        # One window is enough: half an hour of windows takes seconds.
        seconds = self.processor.feature_extractor.chunk_length if self.of.windows else self.longest_seconds
        [most] = self.features([np.zeros(int(seconds * SAMPLE_RATE), np.float32)]).positions
        return most / seconds

    def features_identity(self) -> dict[str, Any]:
        """Return feature extractor and placeholder with the tokens around it; with windows also the longest audio."""
        identity = {"features": feature_extractor(self.processor).to_json_string(), "placeholder": self.spans().whole}
        return identity | ({"longest audio in s": self.longest_seconds} if self.of.windows else {})


def feature_extractor(processor: Any) -> Any:
    """Return a processor's feature extractor, under either of transformers' names; None if it has none."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def check_packages(family: Family, name: str) -> None:
    """Refuse a model whose processor's imports are not installed; the error names the extra that has them."""
    if missing := [package for package in family.packages if find_spec(package) is None]:
        raise UserError(
            f"{name}: the processor of a {family.model_type} needs {' and '.join(missing)}; "
            f"pip install 'caad-ds[{family.model_type}]'"
        )


def load_processor(folder: str | Path) -> Any:
    """Load the processor of a folder; UserError if a file is missing, which transformers would replace by defaults."""
    folder = Path(folder)
    for what, names in PROCESSOR_FILES.items():
        if not any(next(folder.glob(name), None) for name in names):
            raise UserError(f"{folder}: its processor lacks {what} ({' or '.join(names)}); give a complete folder")
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers may raise anything on other files
        reason = first_line(error)
        raise UserError(f"{folder}: no processor there that loads ({reason}); give a complete folder") from error
    if feature_extractor(processor) is None or not hasattr(processor, "audio_token"):
        raise UserError(f"{folder}: its processor files are those of no audio model; give a complete folder")
    if processor.audio_token not in processor.tokenizer.get_vocab():
        raise UserError(f"{folder}: its tokenizer has no token {processor.audio_token!r}; give a complete folder")
    stored = read_json(folder / "tokenizer_config.json", "give a complete folder").get("chat_template")
    if not stored and not any(folder.glob("chat_template.*")):
        raise UserError(f"{folder}: it has no chat template (chat_template.jinja); give an instruct model's folder")
    return processor
