"""Qwen3-ASR with random weights and its real processor, made offline: audio of 3 s at most in windows of 1 s."""

from pathlib import Path

import torch
from transformers import (
    BatchFeature,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)

from tests.models.families.tiny import text
from tests.models.families.tiny.text import MELS

MODEL = Qwen3ASRForConditionalGeneration
NAMED = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
# As published: the system's text, then the audio alone; what a user writes is left out.
TEMPLATE = """\
{%- set found = namespace(text='', audio='') -%}
{%- for message in messages -%}
{%- if message.content is string -%}
{%- if message.role == 'system' %}{% set found.text = found.text + message.content %}{% endif -%}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'audio' -%}
{%- set found.audio = found.audio + '<|audio_start|><|audio_pad|><|audio_end|>' -%}
{%- elif message.role == 'system' %}{% set found.text = found.text + part.text %}{% endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
<|im_start|>system
{{ found.text }}<|im_end|>
<|im_start|>user
{{ found.audio }}<|im_end|>
{% for message in messages if message.role == 'assistant' -%}
<|im_start|>assistant
{% generation -%}
{%- if message.content is string %}{{ message.content }}{% else -%}
{%- for part in message.content %}{{ part.text }}{% endfor -%}
{%- endif %}<|im_end|>
{% endgeneration -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def processor() -> Qwen3ASRProcessor:
    """The real processor."""
    tokenizer = text.tokenizer((*text.TURNS, *NAMED.values()), TEMPLATE, **NAMED)
    extractor = Qwen3ASRFeatureExtractor(feature_size=MELS, chunk_length=3)
    return Qwen3ASRProcessor(extractor, tokenizer, chat_template=TEMPLATE)


def architecture(made: Qwen3ASRProcessor, hidden: int = 32, layers: int = 2) -> dict:
    """The config.json of a small model for a processor; its head is the table of its embeddings, as published."""
    return {
        "model_type": "qwen3_asr",
        "audio_token_id": made.audio_token_id,
        "pad_token_id": made.tokenizer.pad_token_id,
        "eos_token_id": made.tokenizer.eos_token_id,
        "tie_word_embeddings": True,
        "audio_config": {
            "model_type": "qwen3_asr_encoder", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32, "num_mel_bins": MELS, "n_window_infer": 100, "downsample_hidden_size": 8,
            "output_dim": hidden,
        },
        "text_config": text.decoder(
            "qwen3", len(made.tokenizer), hidden, layers, head_dim=hidden // 4, tie_word_embeddings=True
        ),
    }  # fmt: skip


def write(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """A model folder in the family's own layout."""
    made = processor()
    torch.manual_seed(seed)
    return text.save(folder, MODEL(Qwen3ASRConfig(**architecture(made, hidden, layers))), made)


def processor_inputs(made: Qwen3ASRProcessor, question: str, clips: list) -> BatchFeature:
    """A question as the `prompt` of a request for a transcription."""
    if clips:
        prompts = made.apply_transcription_request(clips, prompt=question, tokenize=False)
    else:
        chat = [{"role": "system", "content": [{"type": "text", "text": question}]}, {"role": "user", "content": []}]
        prompts = [made.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)]
    return made(text=prompts, audio=clips or None, audio_kwargs={"sampling_rate": 16_000})
