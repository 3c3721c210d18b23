"""GLM-ASR with random weights and its real processor, made offline."""

from pathlib import Path

import torch
from transformers import GlmAsrConfig, GlmAsrForConditionalGeneration, GlmAsrProcessor, WhisperFeatureExtractor

from tests.models.families.tiny import text
from tests.models.families.tiny.text import MELS, SECONDS

MODEL = GlmAsrForConditionalGeneration
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = ("<|endoftext|>", *ROLES, "<|pad|>", "<|begin_of_audio|>", "<|end_of_audio|>")
# As the published one: no token ends a turn, a content is trimmed, and audio closes the user's turn.
TEMPLATE = (
    "{%- for message in messages -%}"
    "<|{{ message['role'] }}|>\n"
    "{%- set written = namespace(text='') -%}"
    "{%- if message['content'] is string -%}{%- set written.text = message['content'] -%}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'audio' -%}"
    "{%- set written.text = written.text + '<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n' -%}"
    "{%- else -%}{%- set written.text = written.text + part['text'] -%}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '\n' + (written.text | trim) }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}"
)


def processor() -> GlmAsrProcessor:
    """The real processor: three windows at most, of the three and a half that it names."""
    tokenizer = text.tokenizer(SPECIAL, TEMPLATE, end="<|endoftext|>")
    extractor = WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS)
    return GlmAsrProcessor(extractor, tokenizer, chat_template=TEMPLATE, max_audio_len=3 * SECONDS + SECONDS // 2)


def architecture(made: GlmAsrProcessor, hidden: int = 32, layers: int = 2) -> dict:
    """The config.json of a small model for a processor."""
    ends = made.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|user|>"])
    return {
        "model_type": "glmasr",
        "audio_token_id": made.audio_token_id,
        "audio_config": {
            "model_type": "glmasr_encoder", "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 50 * SECONDS, "num_mel_bins": MELS,
        },
        "text_config": text.decoder("llama", len(made.tokenizer), hidden, layers, eos_token_id=ends, bos_token_id=None),
        "tie_word_embeddings": True,
    }  # fmt: skip


def write(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """A model folder in the family's own layout."""
    made = processor()
    torch.manual_seed(seed)
    return text.save(folder, MODEL(GlmAsrConfig(**architecture(made, hidden, layers))), made)
