"""Audio Flamingo 3 with random weights and its real processor, made offline."""

from pathlib import Path

import torch
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    WhisperFeatureExtractor,
)

from tests.models.families.tiny import text
from tests.models.families.tiny.text import MELS, SECONDS

MODEL = AudioFlamingo3ForConditionalGeneration
# As the published one: a message's audio stands before all of its text.
TEMPLATE = text.template("").replace(
    "{%- for part in message['content'] -%}",
    "{% if message['content'] | selectattr('type', 'equalto', 'audio') | list %}<sound>{% endif %}"
    "{%- for part in message['content'] -%}",
)


def processor() -> AudioFlamingo3Processor:
    """The real processor: three windows at most."""
    tokenizer = text.tokenizer((*text.TURNS, "<sound>"), TEMPLATE, audio_token="<sound>")
    extractor = WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS)
    return AudioFlamingo3Processor(extractor, tokenizer, chat_template=TEMPLATE, max_audio_len=3 * SECONDS + 1)


def architecture(made: AudioFlamingo3Processor, hidden: int = 32, layers: int = 2) -> dict:
    """The config.json of a small model for a processor."""
    return {
        "model_type": "audioflamingo3",
        "audio_token_id": made.audio_token_id,
        "audio_config": {
            "model_type": "audioflamingo3_encoder", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "num_mel_bins": MELS, "max_source_positions": 50 * SECONDS,
        },
        "text_config": text.decoder("qwen2", len(made.tokenizer), hidden, layers),
    }  # fmt: skip


def write(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """A model folder in the family's own layout."""
    made = processor()
    torch.manual_seed(seed)
    return text.save(folder, MODEL(AudioFlamingo3Config(**architecture(made, hidden, layers))), made)
