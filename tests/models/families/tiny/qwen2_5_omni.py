"""Qwen2.5-Omni with random weights and its real processor, made offline: a complete checkpoint with talker."""

from pathlib import Path

import torch
from transformers import (
    BatchFeature,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from tests.models.families.tiny import text
from tests.models.families.tiny.text import MELS

MODEL = Qwen2_5OmniThinkerForConditionalGeneration
SECONDS = 6  # of the published 300
SPAN = "<|audio_bos|><|AUDIO|><|audio_eos|>"
TEMPLATE = text.template(SPAN)
TOKENS = {
    "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
}  # fmt: skip


def processor() -> Qwen2_5OmniProcessor:
    """The real processor, with those of images and videos."""
    tokenizer = text.tokenizer((*text.TURNS, *TOKENS.values()), TEMPLATE, **TOKENS)
    extractor = WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS, return_attention_mask=True)
    images, videos = Qwen2VLImageProcessor(), Qwen2VLVideoProcessor()
    return Qwen2_5OmniProcessor(images, videos, extractor, tokenizer, chat_template=TEMPLATE)


def architecture(made: Qwen2_5OmniProcessor, hidden: int = 32, layers: int = 2) -> dict:
    """Return the config.json of a small complete model for a processor, in the published layout."""
    ids = made.tokenizer.convert_tokens_to_ids
    rotary = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, hidden // 8 - 2]}
    thinker = {
        "model_type": "qwen2_5_omni_thinker", "tie_word_embeddings": False,
        "audio_config": {
            "model_type": "qwen2_5_omni_audio_encoder", "d_model": 16, "encoder_layers": 2,
            "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": MELS, "n_window": 20,
            "max_source_positions": 100, "output_dim": hidden,
        },
        "vision_config": {
            "model_type": "qwen2_5_omni_vision_encoder", "depth": 1, "hidden_size": 16, "intermediate_size": 16,
            "num_heads": 2, "out_hidden_size": hidden, "fullatt_block_indexes": [0],
        },
        "text_config": text.decoder(
            "qwen2_5_omni_text", len(made.tokenizer), hidden, layers, rope_parameters=rotary, use_sliding_window=False
        ),
        "audio_token_index": ids("<|AUDIO|>"), "image_token_index": ids("<|IMAGE|>"),
        "video_token_index": ids("<|VIDEO|>"), "audio_start_token_id": ids("<|audio_bos|>"),
        "audio_end_token_id": ids("<|audio_eos|>"), "vision_start_token_id": ids("<|vision_bos|>"),
        "vision_end_token_id": ids("<|vision_eos|>"), "pad_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
    }  # fmt: skip
    return {
        "model_type": "qwen2_5_omni", "enable_audio_output": True, "thinker_config": thinker,
        "talker_config": {
            "model_type": "qwen2_5_omni_talker", "vocab_size": 40, "embedding_size": hidden, "hidden_size": 16,
            "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 8, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        },
        "token2wav_config": {
            "model_type": "qwen2_5_omni_token2wav",
            "dit_config": {
                "model_type": "qwen2_5_omni_dit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "head_dim": 8, "emb_dim": 8, "num_embeds": 9, "mel_dim": 8, "enc_emb_dim": 8, "enc_dim": 8,
                "enc_channels": [8, 8, 8, 8, 8], "enc_attention_channels": 8, "enc_se_channels": 8,
            },
            "bigvgan_config": {
                "model_type": "qwen2_5_omni_bigvgan", "mel_dim": 8, "upsample_initial_channel": 64,
                "upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4],
            },
        },
    }  # fmt: skip


def write(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """A model folder in the family's own layout, with a talker and a file of voices."""
    made = processor()
    torch.manual_seed(seed)
    whole = Qwen2_5OmniForConditionalGeneration(Qwen2_5OmniConfig(**architecture(made, hidden, layers)))
    text.amplify(whole.thinker.base_model)
    whole.save_pretrained(folder)
    made.save_pretrained(folder)
    torch.save({"Chelsie": {"bos_token": 1}}, folder / "spk_dict.pt")
    return folder


def processor_inputs(made: Qwen2_5OmniProcessor, question: str, clips: list) -> BatchFeature:
    """As `text.processor_inputs`, without the frames of padding behind the whole seconds that have audio."""
    out = text.processor_inputs(made, question, clips)
    if clips:
        frames = min(100 * -(-(max(map(len, clips)) + 400) // 16_000), 100 * SECONDS)
        assert not out["feature_attention_mask"][:, frames:].any()
        for name in ("input_features", "feature_attention_mask"):
            out[name] = out[name][..., :frames]
    return out
