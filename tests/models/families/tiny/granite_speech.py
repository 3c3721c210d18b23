"""Granite Speech with random weights and its real processor, made offline: audio of 3 s at most."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BatchFeature,
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
)

from caad_ds.models.families.granite_speech import WINDOW
from tests.models.families.tiny import text

MODEL = GraniteSpeechForConditionalGeneration
SECONDS = 3
# Contents are texts, as in the published templates: a list of parts fails.
TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def processor() -> GraniteSpeechProcessor:
    """The real processor; its extractor cannot be saved with other than 80 mel bins."""
    tokenizer = text.tokenizer((*text.TURNS, "<|audio|>"), TEMPLATE)
    extractor = GraniteSpeechFeatureExtractor(**{WINDOW: SECONDS})
    return GraniteSpeechProcessor(extractor, tokenizer, chat_template=TEMPLATE)


def architecture(made: GraniteSpeechProcessor, hidden: int = 32, layers: int = 2) -> dict:
    """The config.json of a small model for a processor: tied head, blocks of attention of 0.8 s."""
    factors = {
        "embedding_multiplier": 1.5, "logits_scaling": 8.0, "residual_multiplier": 0.9, "attention_multiplier": 0.2,
        "tie_word_embeddings": True,
    }  # fmt: skip
    return {
        "model_type": "granite_speech",
        "audio_token_index": made.tokenizer.convert_tokens_to_ids("<|audio|>"),
        "has_lora_adapter": False,
        "tie_word_embeddings": True,
        "encoder_config": {
            "model_type": "granite_speech_encoder", "input_dim": 160, "num_layers": 2, "hidden_dim": 16, "num_heads": 2,
            "output_dim": 8, "context_size": 40, "max_pos_emb": 64, "conv_kernel_size": 5, "dropout": 0.1,
        },
        "projector_config": {
            "model_type": "blip_2_qformer", "hidden_size": 16, "encoder_hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 32, "cross_attention_frequency": 1,
        },
        "text_config": text.decoder("granite", len(made.tokenizer), hidden, layers, **factors),
    }  # fmt: skip


def write(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """A model folder in the family's own layout."""
    made = processor()
    torch.manual_seed(seed)
    model = MODEL(GraniteSpeechConfig(**architecture(made, hidden, layers)))
    prepare(model)
    return text.save(folder, model, made)


def prepare(model: torch.nn.Module) -> None:
    """Give every BatchNorm realistic statistics, and scale down the projector's queries so that audio has an effect."""
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(part.running_mean, std=0.1)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
    with torch.no_grad():
        model.model.projector.query.mul_(0.02)


def processor_inputs(made: Any, question: str, clips: list) -> BatchFeature:
    """Return ids of the clips without padding, and features computed with an audio of full length, which pads."""
    chat = [{"role": "user", "content": "<|audio|>" * len(clips) + question}]
    prompt = made.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    if not clips:
        return made(text=[prompt], return_tensors="pt")
    out = made(text=[prompt], audio=clips, return_tensors="pt")
    whole = np.zeros(SECONDS * 16_000, np.float32)
    padded = made(text=[prompt + "<|audio|>"], audio=[*clips, whole], return_tensors="pt")
    for name in ("input_features", "input_features_mask"):
        out[name] = padded[name][:-1]
    return out
