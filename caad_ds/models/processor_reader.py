"""Batches by a processor of transformers: its template, its placeholders, its features."""

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

from caad_ds.data.audio.levels import SAMPLE_RATE
from caad_ds.data.batch import Audio, joined
from caad_ds.models.family import Family
from caad_ds.models.language_model.llm import TOKENIZER_FILES
from caad_ds.models.prompts.audio_spans import ContentParts
from caad_ds.models.prompts.chat_template import TemplateSettings, freeze_template
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.reader import AFTER_AUDIO, NO_TRANSCRIPT, TRANSCRIPT, Features, Reader
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json

NOT_AUDIO = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
WINDOWS = "windows"  # among audio inputs: how many of an audio's windows [U, W, ...] are its own, int64 [U]
# By what they are, of each of which one must be there.
PROCESSOR_FILES = {
    "a feature extractor": ("processor_config.json", "preprocessor_config.json"),
    "the tokenizer's settings": ("tokenizer_config.json",),
    "a tokenizer": ("tokenizer.*", *TOKENIZER_FILES[1:]),
}


class ProcessorReader(Reader):
    """As many positions for an audio as the processor gives it; a mask tells the model how long it was.

    The field's own models have no transcription in the prompt, unless the model's tokenizer_config.json says so.
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
        # A tokenizer of its own: it keeps the padding of the last call, and would be saved with it.
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
        """Make it of a folder's processor; UserError where a file or a package of it is missing."""
        check_packages(family, str(folder))
        try:
            return cls(load_processor(Path(folder)), family, **reading)
        except UserError:
            raise
        except Exception as error:  # whatever a processor of another family lacks, or a setting of it makes fail
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise UserError(
                f"{folder}: its processor is not that of a {family.model_type} ({reason}); give a whole folder"
            ) from error

    def spans(self) -> ContentParts:
        """How audio stands in the text that the chat template writes."""
        return ContentParts(self._mark)

    def features(self, waveforms: Sequence[np.ndarray]) -> Features:
        """The processor's own inputs, and the number of placeholders that it writes for each audio.

        Where it cuts audio into windows, an input has the shape [U, W, ...], W the most that one of them has.
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
        """What the processor makes of them in one call."""
        made = self._features(
            text=[self._mark] * len(waveforms),
            audio=list(waveforms),
            text_kwargs={"padding": True},
            audio_kwargs={"sampling_rate": SAMPLE_RATE, **self.audio_settings(waveforms)},
            return_tensors="pt",
        )
        positions = (made["input_ids"] == self.prompts.placeholder).sum(1).tolist()
        unused = (*NOT_AUDIO, *getattr(self.processor, "unused_input_names", ()))
        audio = {name: each for name, each in made.items() if isinstance(each, Tensor) and name not in unused}
        return Features(audio, positions)

    def audio_settings(self, waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
        """Further settings of the processor for these waveforms."""
        return {}

    @staticmethod
    def inputs(audio: Audio) -> Audio:
        """The forward's audio inputs of placed audio: a row for each window that is its audio's own."""
        if WINDOWS not in audio:
            return audio
        rest = {name: value for name, value in audio.items() if name != WINDOWS}
        most = next(iter(rest.values())).shape[1]
        own = torch.arange(most, device=audio[WINDOWS].device) < audio[WINDOWS][:, None]
        return {name: value[own] for name, value in rest.items()}

    def positions_of(self, seconds: float) -> int:
        """As many as the longest audio has for its length, and one for rounding."""
        return math.ceil(seconds * self._positions_per_second) + 1

    @cached_property
    def _positions_per_second(self) -> float:
        # Of windows one says it: those of half an hour take seconds.
        seconds = self.processor.feature_extractor.chunk_length if self.of.windows else self.longest_seconds
        [most] = self.features([np.zeros(int(seconds * SAMPLE_RATE), np.float32)]).positions
        return most / seconds

    def features_identity(self) -> dict[str, Any]:
        """The feature extractor and the placeholder, with what stands around it; of windows the longest audio too."""
        found = {"features": feature_extractor(self.processor).to_json_string(), "placeholder": self.spans().whole}
        return found | ({"longest audio in s": self.longest_seconds} if self.of.windows else {})


def feature_extractor(processor: Any) -> Any:
    """What a processor extracts features with, under either name that transformers has for it; None: nothing."""
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def check_packages(family: Family, name: str) -> None:
    """Refuse a model whose processor imports what is not installed, naming the extra that brings it."""
    if missing := [package for package in family.packages if find_spec(package) is None]:
        raise UserError(
            f"{name}: the processor of a {family.model_type} needs {' and '.join(missing)}; "
            f"pip install 'caad-ds[{family.model_type}]'"
        )


def load_processor(folder: str | Path) -> Any:
    """The processor of a folder; UserError where one of its files is missing, which transformers would make up."""
    folder = Path(folder)
    for what, names in PROCESSOR_FILES.items():
        if not any(next(folder.glob(name), None) for name in names):
            raise UserError(f"{folder}: its processor lacks {what} ({' or '.join(names)}); give a whole folder")
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever transformers raises on files that hold something else
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: no processor there that loads ({reason}); give a whole folder") from error
    if feature_extractor(processor) is None or not hasattr(processor, "audio_token"):
        raise UserError(f"{folder}: its processor files are those of no audio model; give a whole folder")
    if processor.audio_token not in processor.tokenizer.get_vocab():
        raise UserError(f"{folder}: its tokenizer has no token {processor.audio_token!r}; give a whole folder")
    stored = read_json(folder / "tokenizer_config.json", "give a whole folder").get("chat_template")
    if not stored and not any(folder.glob("chat_template.*")):
        raise UserError(f"{folder}: it has no chat template (chat_template.jinja); give an instruct model's folder")
    return processor
