"""Granite Speech Plus with random weights and the real processor of Granite Speech, made offline."""

from pathlib import Path

import torch
from transformers import GraniteSpeechPlusConfig, GraniteSpeechPlusForConditionalGeneration, GraniteSpeechProcessor

from tests.models.families.tiny import granite_speech, text
from tests.models.families.tiny.granite_speech import processor, processor_inputs

__all__ = ["MODEL", "architecture", "processor", "processor_inputs", "write"]

MODEL = GraniteSpeechPlusForConditionalGeneration


def architecture(made: GraniteSpeechProcessor, hidden: int = 32, layers: int = 2) -> dict:
    """Return the config.json of a small model for a processor; the projector reads one more layer besides the last."""
    values = granite_speech.architecture(made, hidden, layers)
    encoder = values["encoder_config"] | {"model_type": "granite_speech_plus_encoder", "cat_hidden_layers": [1]}
    projector = values["projector_config"] | {"encoder_hidden_size": 32}
    return values | {"model_type": "granite_speech_plus", "encoder_config": encoder, "projector_config": projector}


def write(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """A model folder in the family's own layout."""
    made = processor()
    torch.manual_seed(seed)
    model = MODEL(GraniteSpeechPlusConfig(**architecture(made, hidden, layers)))
    granite_speech.prepare(model)
    return text.save(folder, model, made)
