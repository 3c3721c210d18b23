"""Qwen2-Audio with random weights and its real processor, made offline: windows of 2 s, a BPE of few pieces."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from tests.training.tiny import amplify

SECONDS, MELS = 2, 16
PIECES = 320
TEXTS = [
    "Is the tone high or low?",
    "The tone is high.",
    "It is low.",
    "You are a helpful assistant.",
    "beep Audio 1: ",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
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
    """Qwen2's tokenizer on few merges; `extra` special tokens come before those of audio."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS * 4, trainer)
    state = json.loads(made.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    out = Qwen2Tokenizer(vocab=state["vocab"], merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    out.add_tokens([AddedToken(token, special=True) for token in (*SPECIAL[:3], *extra, *SPECIAL[3:])])
    out.chat_template = template
    return out


def processor(extra: tuple[str, ...] = (), mels: int = MELS, seconds: int = SECONDS) -> Qwen2AudioProcessor:
    """The real processor, with so many mel bins and such a window."""
    extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds)
    return Qwen2AudioProcessor(extractor, tokenizer(extra), chat_template=TEMPLATE)


def architecture(made: Qwen2AudioProcessor, hidden: int = 32, layers: int = 2) -> dict:
    """The config.json of a small model for a processor."""
    return {
        "model_type": "qwen2_audio",
        "audio_token_index": made.tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        "audio_config": {
            "model_type": "qwen2_audio_encoder", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32, "num_mel_bins": MELS, "max_source_positions": 50 * SECONDS,
        },
        "text_config": {
            "model_type": "qwen2", "vocab_size": len(made.tokenizer), "hidden_size": hidden,
            "intermediate_size": 2 * hidden, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": False,
        },
    }  # fmt: skip


def write(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0, extra: tuple[str, ...] = ()) -> Path:
    """A model folder in the family's own layout; its audio is loud in its states."""
    made = processor(extra)
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(Qwen2AudioConfig(**architecture(made, hidden, layers)))
    amplify(model.model)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder
