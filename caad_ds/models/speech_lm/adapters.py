"""Low-rank adapters on a speech model's LLM, or on its encoder."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from caad_ds.models.language_model import lora
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM


def add(model: SpeechLM, settings: dict[str, Any]) -> None:
    """Put fresh adapters on the LLM, `settings` as in config.py's LoraSection."""
    lora.inject(model.llm, settings)
    model.config.lora = settings


def merge(model: SpeechLM) -> None:
    """Make the adapters of the LLM, if there are any, part of the weights that they stand beside."""
    if model.config.lora is not None:
        lora.merge(model.llm)
        model.config.lora = None


def add_to_encoder(encoder: SpeechEncoder, settings: dict[str, Any]) -> None:
    """Put fresh adapters on all linear layers, `settings` as in config.py's LoraSection; they alone train."""
    encoder.adapters = settings | {"targets": "all-linear"}
    lora.inject(encoder.whisper, encoder.adapters)


def merged_encoder(encoder: SpeechEncoder, weights: Mapping[str, Tensor]) -> SpeechEncoder:
    """The encoder made again of `weights`, under its own names, with its adapters merged."""
    made = SpeechEncoder(WhisperEncoder(encoder.whisper.config), encoder.extractor, encoder.taps, encoder.final_norm)
    if encoder.adapters is not None:
        add_to_encoder(made, encoder.adapters)
    made.load_state_dict(weights)
    lora.merge(made.whisper)
    return made
