"""Voxtral with random weights and its real processor, made offline: windows of 2 s, a tekken of few pieces."""

import base64
import io
import json
from pathlib import Path

import soundfile
import torch
from transformers import (
    BatchFeature,
    MistralCommonBackend,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)

from tests.models.families.tiny import text
from tests.models.families.tiny.text import MELS, SECONDS

MODEL = VoxtralForConditionalGeneration
CONTROL = {
    0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]", 6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]", 10: "[IMG]", 11: "<pad>", 12: "[IMG_BREAK]",
    13: "[IMG_END]", 14: "[PREFIX]", 15: "[MIDDLE]", 16: "[SUFFIX]", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]", 24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 32: "[ARGS]", 33: "[CALL_ID]", 34: "[TRANSCRIBE]",
    35: "[THINK]", 36: "[/THINK]",
}  # fmt: skip
SPECIAL = 40
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def audio(seconds: int = SECONDS, mels: int = MELS) -> dict:
    """The section of a tekken.json that says how audio is encoded."""
    encoding = {"num_mel_bins": mels, "window_size": 400, "hop_length": 160}
    return {
        "sampling_rate": 16_000, "frame_rate": 12.5, "audio_encoding_config": encoding,
        "chunk_length_s": float(seconds),
    }  # fmt: skip


def control(special: int) -> list[dict]:
    """The entries of the control tokens, of which those without a name are numbered."""
    return [
        {"rank": n, "token_str": CONTROL.get(n, f"<SPECIAL_{n}>"), "is_control": True} for n in range(special)
    ]  # fmt: skip


def tekken(version: str = "v7") -> dict:
    """A whole tekken.json: every byte, and the merged pieces of few words."""
    trained = text.tokenizer((), "")
    byte_of = {letter: number for number, letter in bytes_to_letters().items()}
    merged = [bytes(byte_of[letter] for letter in token) for token, _ in sorted(
        trained.get_vocab().items(), key=lambda item: item[1]) if token not in text.TURNS
    ]  # fmt: skip
    pieces = [bytes([n]) for n in range(256)] + [piece for piece in merged if len(piece) > 1]
    vocab = [
        {"rank": n, "token_bytes": base64.b64encode(piece).decode(), "token_str": piece.decode(errors="ignore") or None}
        for n, piece in enumerate(pieces)
    ]
    size = len(vocab)
    config = {
        "pattern": PATTERN, "num_vocab_tokens": size, "default_vocab_size": size + SPECIAL,
        "default_num_special_tokens": SPECIAL, "version": version,
    }  # fmt: skip
    return {"config": config, "vocab": vocab, "special_tokens": control(SPECIAL), "audio": audio()}


def bytes_to_letters() -> dict[int, str]:
    """The letter that byte-level BPE writes for each byte: itself where it can be printed, else one from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [n for n in range(256) if n not in printed]
    return {n: chr(n) for n in printed} | {n: chr(256 + place) for place, n in enumerate(rest)}


def processor(folder: Path, version: str = "v7") -> VoxtralProcessor:
    """The real processor; its tekken.json lies in the folder."""
    (folder / "tekken.json").write_text(json.dumps(tekken(version)))
    extractor = WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS)
    return VoxtralProcessor(extractor, MistralCommonBackend.from_pretrained(folder))


def architecture(made: VoxtralProcessor, hidden: int = 32, layers: int = 2) -> dict:
    """The config.json of a small model for a processor."""
    return {
        "model_type": "voxtral",
        "audio_token_id": 24,
        "audio_config": {
            "model_type": "voxtral_encoder", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "num_mel_bins": MELS, "max_source_positions": 50 * SECONDS,
        },
        "text_config": text.decoder("llama", len(made.tokenizer), hidden, layers, head_dim=8)
        | {"max_position_embeddings": 4096},
    }  # fmt: skip


def write(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0, version: str = "v7") -> Path:
    """A model folder in the family's own layout."""
    made = processor(folder, version)
    torch.manual_seed(seed)
    return text.save(folder, MODEL(VoxtralConfig(**architecture(made, hidden, layers))), made)


def wav(clip) -> str:
    """A clip as base64 of a WAV file that holds its numbers as they are."""
    file = io.BytesIO()
    soundfile.write(file, clip, 16_000, format="WAV", subtype="FLOAT")
    return base64.b64encode(file.getvalue()).decode()


def encoded(own: VoxtralProcessor, chat: list[dict], seconds: int = SECONDS) -> BatchFeature:
    """What VoxtralProcessor makes of a conversation whose audio is base64, with windows of so many seconds."""
    settings = {"pad_to_multiple_of": 16_000 * seconds, "max_source_positions": 100 * seconds}
    return own.apply_chat_template([chat], processor_kwargs={"audio_kwargs": settings})


def processor_inputs(made, question: str, clips: list) -> BatchFeature:
    """What the family's own processor makes of a question about clips."""
    content = [*({"type": "audio", "base64": wav(clip)} for clip in clips), {"type": "text", "text": question}]
    return encoded(made.own, [{"role": "user", "content": content}])
