"""Music Flamingo with random weights and its real processor, made offline."""

from pathlib import Path

import torch
from transformers import (
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    MusicFlamingoProcessor,
    WhisperFeatureExtractor,
)

from tests.models.families.tiny import audioflamingo3, text
from tests.models.families.tiny.text import MELS, SECONDS

MODEL = MusicFlamingoForConditionalGeneration
TEMPLATE = audioflamingo3.TEMPLATE
AROUND = ("<|sound_bos|>", "<|sound_eos|>")


def processor() -> MusicFlamingoProcessor:
    """The real processor: three windows at most."""
    tokenizer = text.tokenizer((*text.TURNS, "<sound>", *AROUND), TEMPLATE, audio_token="<sound>")
    extractor = WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS)
    return MusicFlamingoProcessor(extractor, tokenizer, chat_template=TEMPLATE, max_audio_len=3 * SECONDS + 1)


def architecture(made: MusicFlamingoProcessor, hidden: int = 32, layers: int = 2) -> dict:
    """The config.json of a small model for a processor."""
    rest = audioflamingo3.architecture(made, hidden, layers)
    ids = {"audio_bos_token_id": made.audio_bos_token_id, "audio_eos_token_id": made.audio_eos_token_id}
    rotated = {"rope_type": "default", "rope_theta": 1200.0, "partial_rotary_factor": 0.5}
    return rest | ids | {"model_type": "musicflamingo", "rope_parameters": rotated}


def write(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """A model folder in the family's own layout."""
    made = processor()
    torch.manual_seed(seed)
    return text.save(folder, MODEL(MusicFlamingoConfig(**architecture(made, hidden, layers))), made)
