"""Granite Speech: a conformer without a mask, a Q-Former over windows of its states, Granite."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.models import transformers_lm
from caad_ds.models.family import Family
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.models.prompts.audio_spans import MarkInText
from caad_ds.models.reader import Features
from caad_ds.models.transformers_lm import TransformersLM
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json

WINDOW = "caad_window_seconds"  # setting saved with the feature extractor's: the length that all audio is padded to
SECONDS = 30.0

FAMILY = Family(
    model_type="granite_speech",
    model="GraniteSpeechForConditionalGeneration",
    tower="encoder",
    connector="projector",
    longest_seconds=lambda processor: float(getattr(processor.audio_processor, WINDOW, SECONDS)),
    shortest_seconds=0.02,  # its extractor alone refuses audio below 257 samples; below 160 it has no position
    packages=("torchaudio",),
    # transformers' class applied it up to 5.9 and omits it from 5.10 on; vLLM applies it (docs/models.md).
    logits_factor=lambda config: 1 / config.text_config.logits_scaling,
)


class GraniteSpeechReader(ProcessorReader):
    """Pads all audio to one length: the tower reads to the end of the padding, which otherwise depends on the batch."""

    def spans(self) -> MarkInText:
        """Write audio in texts: its template takes no parts."""
        return MarkInText(self._mark)

    @classmethod
    def load(cls, family: Family, folder: str | Path, **reading: Any) -> ProcessorReader:
        """Load a folder's processor; UserError if its extractor differs from the files."""
        reader = super().load(family, folder, **reading)
        stored = _stored(Path(folder)).get("melspec_kwargs", {})
        used = reader.processor.audio_processor.melspec_kwargs
        if wrong := [f"{name} {value}" for name, value in stored.items() if used.get(name, value) != value]:
            raise UserError(
                f"{folder}: transformers does not read {', '.join(wrong)} of its melspec_kwargs; name "
                f"{'them' if len(wrong) > 1 else 'it'} beside projector_window_size in the same file, outside of them"
            )
        return reader

    def extracted(self, waveforms: Sequence[np.ndarray]) -> Features:
        """Extract features together with silence of the full length, to which the processor pads."""
        silence = np.zeros(round(self.longest_seconds * SAMPLE_RATE), np.float32)
        features = super().extracted([*map(np.array, waveforms), silence])  # copies: PyTorch warns of read-only memory
        return Features({name: value[:-1] for name, value in features.audio.items()}, features.positions[:-1])

    def positions_of(self, seconds: float) -> int:
        """Return positions in proportion to the longest audio's, plus those of one window of the projector."""
        extractor = self.processor.audio_processor
        window = extractor.projector_window_size // extractor.projector_downsample_rate
        return math.ceil(seconds * self._positions_per_second) + window


class GraniteSpeechLM(TransformersLM):
    """A model with merged adapters: its own `generate` enables them only for audio, here both paths have them."""

    reads = GraniteSpeechReader

    def __init__(self, family: Family, model: PreTrainedModel, reader: ProcessorReader):
        super().__init__(family, model, reader)
        extractor, config = reader.processor.audio_processor, model.config
        theirs = extractor.projector_window_size, extractor.projector_downsample_rate
        if theirs != (ours := (config.window_size, config.downsample_rate)):
            raise UserError(
                f"{reader.tokenizer.name_or_path}: its processor counts positions by windows of {theirs[0]} states, "
                f"one of {theirs[1]}, and the config says {ours[0]} and {ours[1]}; take the processor of this model"
            )
        model.config.has_lora_adapter = False  # a folder's are merged, random weights have none


def _stored(folder: Path) -> dict[str, Any]:
    """Read the feature extractor's settings from the files of a processor."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        values = read_json(folder / name, "give a complete folder") if (folder / name).is_file() else {}
        if "melspec_kwargs" in (settings := values.get("audio_processor", values)):
            return settings
    return {}


def load_with_adapters(family: Family, folder: Path, dtype: torch.dtype) -> TransformersLM:
    """Load a folder's model with its adapters merged; UserError if its config names some that are missing."""
    has = read_json(folder / "config.json", "give a complete folder").get("has_lora_adapter", True)
    there = [(folder / name).is_file() for name in ("adapter_config.json", "adapter_model.safetensors")]
    if not has and any(there):
        raise UserError(
            f"{folder}: its config says that it has no adapters (has_lora_adapter), and their files are there; remove "
            "them if they are merged, or set it to true"
        )
    if has and not all(there):
        raise UserError(
            f"{folder}: its config says has_lora_adapter, but adapter_config.json or adapter_model.safetensors is not "
            "there; add them, or set has_lora_adapter to false if they are merged"
        )
    return transformers_lm.load(family, folder, dtype, lm=GraniteSpeechLM)


load = partial(load_with_adapters, FAMILY)
build = partial(transformers_lm.build, FAMILY, lm=GraniteSpeechLM)
