"""Logits of a tiny speech model that is built of a config, by the modelling under any package's name.

It imports nothing of this project, and runs as a script too: `tiny_logits.py PACKAGE FILE` where there is no `caad_ds`.
"""

import sys
from importlib import import_module

import torch
from torch import Tensor
from transformers import WhisperConfig

LLM = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip
WHISPER = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
QUERIES = 3


@torch.no_grad()
def logits(package: str) -> Tensor:
    """Logits [10, V] of two samples, one of them padded, about two audios."""
    part = {name: import_module(f"{package}.{name}") for name in ("config", "embedded_batch", "encoder", "speech_lm")}
    torch.manual_seed(0)
    whisper = WhisperConfig(**WHISPER, num_mel_bins=80, max_source_positions=50)
    encoder = part["encoder"].SpeechEncoder.from_config(whisper, taps=[0, 1])
    config = part["config"].SpeechLMConfig(
        llm_config=LLM, encoder_dim=encoder.dim, taps=encoder.taps, window_seconds=encoder.window_seconds,
        num_queries=QUERIES, qformer_layers=1, qformer_heads=2,
    )  # fmt: skip
    model = part["speech_lm"].SpeechLM(config).eval()
    waveforms = torch.randn(2, 8000).numpy()
    states = encoder.encode(encoder.features(list(waveforms)))
    ids = torch.randint(50, (2, 6))
    mask = torch.ones_like(ids)
    mask[1, 5] = 0
    audio = torch.zeros_like(ids, dtype=torch.bool)
    audio[:, 1 : 1 + QUERIES] = True
    mixed = model.merge_audio(ids, audio, model.project(states))
    positions = part["embedded_batch"].positions(mask)
    rows = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8, 9, 10])
    embedded = part["embedded_batch"].Embedded(mixed, mask, positions, rows)
    return model.get_output_embeddings()(model.hidden_states(embedded))


if __name__ == "__main__":
    sys.modules["caad_ds"] = None  # type: ignore[assignment]  # importing it, or a part of it, raises ImportError
    torch.save(logits(sys.argv[1]), sys.argv[2])
