"""Gemma 4 with random weights and its real processor, made offline: its layers as in E2B, only fewer."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    BatchFeature,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    GemmaTokenizer,
)

from tests.models.families.tiny import text

MODEL = Gemma4ForConditionalGeneration
NAMED = {
    "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
    "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
}  # fmt: skip
TURNS = ("<|turn>", "<turn|>")
# As published, without thoughts and tools: texts are trimmed, and an audio is one token, which the processor expands.
TEMPLATE = """\
{{ bos_token }}
{%- for message in messages -%}
{{ '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] | trim }}{% else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' %}<|audio|>{% else %}{{ part['text'] | trim }}{% endif -%}
{%- endfor -%}
{%- endif %}<turn|>
{% endfor -%}
{%- if add_generation_prompt %}<|turn>model
{% endif %}"""


def tokenizer() -> GemmaTokenizer:
    """Gemma's tokenizer on few merges."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    alphabet = ["\n", *map(chr, range(33, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=160, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(text.TEXTS * 4, trainer)
    state = json.loads(made.to_str())["model"]
    vocabulary = dict(state["vocab"])
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    merges = [tuple(pair) for pair in state["merges"]]
    out = GemmaTokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=NAMED)
    out.add_tokens([AddedToken(token, special=True) for token in TURNS])
    out.chat_template = TEMPLATE
    return out


def processor() -> Gemma4Processor:
    """The real processor."""
    parts = Gemma4AudioFeatureExtractor(), Gemma4ImageProcessor(), tokenizer(), Gemma4VideoProcessor()
    return Gemma4Processor(*parts, chat_template=TEMPLATE)


def architecture(made: Gemma4Processor, hidden: int = 32, layers: int = 4) -> dict:
    """The config.json of a small model for a processor: half of its layers read the keys of the others."""
    known = len(made.tokenizer)
    return {
        "model_type": "gemma4",
        "audio_token_id": made.audio_token_id,
        "image_token_id": made.image_token_id,
        "video_token_id": made.video_token_id,
        "tie_word_embeddings": True,
        "audio_config": {
            "model_type": "gemma4_audio", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "subsampling_conv_channels": [128, 4], "output_proj_dims": 16,
        },
        "vision_config": {
            "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 64,
        },
        "text_config": text.decoder(
            "gemma4_text", known, hidden, layers, head_dim=8, global_head_dim=16, sliding_window=16,
            layer_types=["sliding_attention", "full_attention"] * (layers // 2), num_kv_shared_layers=layers // 2,
            vocab_size_per_layer_input=known, hidden_size_per_layer_input=8, final_logit_softcapping=30.0,
            max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=made.tokenizer.pad_token_id,
            eos_token_id=made.tokenizer.eos_token_id, bos_token_id=made.tokenizer.bos_token_id,
        ),
    }  # fmt: skip


def write(folder: Path, hidden: int = 32, layers: int = 4, seed: int = 0) -> Path:
    """A model folder in the family's own layout."""
    made = processor()
    torch.manual_seed(seed)
    return text.save(folder, MODEL(Gemma4Config(**architecture(made, hidden, layers))), made)


def processor_inputs(made: Gemma4Processor, question: str, clips: list) -> BatchFeature:
    """What the processor makes of a conversation, all in one call."""
    content = [*({"type": "audio", "audio": clip} for clip in clips), {"type": "text", "text": question}]
    return made.apply_chat_template(
        [[{"role": "user", "content": content}]], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
