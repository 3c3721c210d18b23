"""Shared by the tiny models: a small BPE tokenizer, a chat template, the processor's call, saving.

A family's module has `MODEL` (transformers' class), `processor()`, `architecture(processor, hidden, layers)`, which
returns its config.json, and `write(folder, hidden, layers, seed)`; if its processor is called differently, also its own
`processor_inputs`.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, BatchFeature, PreTrainedModel, Qwen2Tokenizer

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
TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tokenizer(special: tuple[str, ...], template: str, end: str = "<|im_end|>", **named: str) -> Qwen2Tokenizer:
    """Qwen2's tokenizer on few merges, with these special tokens; `named` are those that a processor asks it for."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS * 4, trainer)
    state = json.loads(made.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    more = {"extra_special_tokens": named} if named else {}
    out = Qwen2Tokenizer(vocab=state["vocab"], merges=merges, eos_token=end, pad_token="<|endoftext|>", **more)
    out.add_tokens([AddedToken(token, special=True) for token in special])
    out.chat_template = template
    return out


def template(span: str) -> str:
    """ChatML as Qwen2 has it, with `span` for each audio."""
    return (
        "{%- for message in messages -%}"
        "{%- if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
        "You are a helpful assistant.<|im_end|>\n"
        "{% endif %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{%- for part in message['content'] -%}"
        "{%- if part['type'] == 'audio' %}" + span + "{% else %}{{ part['text'] }}{% endif -%}"
        "{%- endfor %}{% endif %}<|im_end|>\n"
        "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def decoder(kind: str, vocabulary: int, hidden: int = 32, layers: int = 2, **more) -> dict:
    """The config of a small language model."""
    return {
        "model_type": kind, "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 1024, "tie_word_embeddings": False,
    } | more  # fmt: skip


def save(folder: Path, model: PreTrainedModel, processor: Any) -> Path:
    """Save a model and its processor, with weights scaled so that audio changes its states."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    quiet = table.detach().clone()
    amplify(model.base_model)
    if table is head:  # else it would write the last token again and again
        table.data.copy_(quiet)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def processor_inputs(processor: Any, question: str, clips: list) -> BatchFeature:
    """Call a processor on a question about clips, as its users do; returns one prompt's ids, mask and audio inputs."""
    content = [*({"type": "audio", "audio": ""} for _ in clips), {"type": "text", "text": question}]
    chat = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = {"audio": clips, "audio_kwargs": {"sampling_rate": 16_000}} if clips else {}
    return processor(text=[prompt], return_tensors="pt", **inputs)
