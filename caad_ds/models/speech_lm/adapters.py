"""Low-rank adapters on a speech model's LLM, or on its encoder."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from caad_ds.models.language_model import lora
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM


def add(model: SpeechLM, settings: dict[str, Any]) -> None:
    """Add new adapters to the LLM, `settings` as in LoraSection."""
    lora.inject(model.llm, settings)
    model.config.lora = settings


def merge(model: SpeechLM) -> None:
    """Merge the LLM's adapters, if any, into its weights."""
    if model.config.lora is not None:
        lora.merge(model.llm)
        model.config.lora = None


def add_to_encoder(encoder: SpeechEncoder, settings: dict[str, Any]) -> None:
    """Add new adapters to all linear layers, `settings` as in LoraSection; only they train."""
    encoder.adapters = settings | {"targets": "all-linear"}
    lora.inject(encoder.whisper, encoder.adapters)


def merged_encoder(encoder: SpeechEncoder, weights: Mapping[str, Tensor]) -> SpeechEncoder:
    """Return a new encoder with `weights`, under its own names, and its adapters merged."""
    merged = SpeechEncoder(WhisperEncoder(encoder.whisper.config), encoder.extractor, encoder.taps, encoder.final_norm)
    if encoder.adapters is not None:
        add_to_encoder(merged, encoder.adapters)
    merged.load_state_dict(weights)
    lora.merge(merged.whisper)
    return merged
