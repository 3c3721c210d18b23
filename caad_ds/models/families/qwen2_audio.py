"""Qwen2-Audio: a Whisper tower over windows of 30 s with a mask, a linear projector, Qwen2."""

from pathlib import Path
from typing import Any

import torch

from caad_ds.models import transformers_lm
from caad_ds.models.transformers_lm import Family, TransformersLM

FAMILY = Family(
    model_type="qwen2_audio",
    model="Qwen2AudioForConditionalGeneration",
    tower="audio_tower",
    connector="multi_modal_projector",
    longest_seconds=lambda processor: processor.feature_extractor.chunk_length,  # cut without a word beyond
    # With a single placeholder its forward takes the text for one that is still to be expanded.
    shortest_seconds=0.1,
)


def load(folder: Path, dtype: torch.dtype, **reading: Any) -> TransformersLM:
    """The model of a folder in `dtype`."""
    return transformers_lm.load(FAMILY, folder, dtype, **reading)


def build(architecture: str, processor: str | Path, **reading: Any) -> TransformersLM:
    """A model with random weights."""
    return transformers_lm.build(FAMILY, architecture, processor, **reading)
