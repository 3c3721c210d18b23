"""Qwen2-Audio with random weights and its real processor, made offline: windows of 2 s, a BPE of few pieces."""

from pathlib import Path

import torch
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from tests.models.families.tiny import text
from tests.models.families.tiny.text import MELS, SECONDS

MODEL = Qwen2AudioForConditionalGeneration
SPECIAL = [*text.TURNS, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
TEMPLATE = """\
{%- set audios = namespace(count=0) -%}
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' %}{% set audios.count = audios.count + 1 %}Audio {{ audios.count }}: \
<|audio_bos|><|AUDIO|><|audio_eos|>
{% else %}{{ part['text'] }}{% endif -%}
{%- endfor %}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def tokenizer(extra: tuple[str, ...] = (), template: str = TEMPLATE) -> Qwen2Tokenizer:
    """The tokenizer; `extra` special tokens come before those of audio."""
    return text.tokenizer((*SPECIAL[:3], *extra, *SPECIAL[3:]), template)


def processor(extra: tuple[str, ...] = (), mels: int = MELS, seconds: int = SECONDS) -> Qwen2AudioProcessor:
    """The real processor, with so many mel bins and such a window."""
    extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds)
    return Qwen2AudioProcessor(extractor, tokenizer(extra), chat_template=TEMPLATE)


def architecture(made: Qwen2AudioProcessor, hidden: int = 32, layers: int = 2) -> dict:
    """The config.json of a small model for a processor, whose window it has."""
    seconds = made.feature_extractor.chunk_length
    return {
        "model_type": "qwen2_audio",
        "audio_token_index": made.tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        "audio_config": {
            "model_type": "qwen2_audio_encoder", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32, "num_mel_bins": MELS, "max_source_positions": 50 * seconds,
        },
        "text_config": text.decoder("qwen2", len(made.tokenizer), hidden, layers),
    }  # fmt: skip


def write(
    folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0, extra: tuple[str, ...] = (), seconds: int = SECONDS
) -> Path:
    """A model folder in the family's own layout; its audio is loud in its states."""
    made = processor(extra, seconds=seconds)
    torch.manual_seed(seed)
    return text.save(folder, MODEL(Qwen2AudioConfig(**architecture(made, hidden, layers))), made)
