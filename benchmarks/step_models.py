"""Models and batches of `step.py`: random weights, at the paper's proportions or its size."""

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperConfig

from caad_ds.data.batch import IGNORE, Batch
from caad_ds.models import negatives
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.text import read_text

QUERIES, PROMPT, ANSWER = 64, 40, 96  # tokens of a sample: audio, text before the answer, answer
ARCHITECTURES = Path(__file__).resolve().parents[1] / "configs/paper/architectures"


@dataclass(frozen=True)
class Scale:
    """Architectures of a setting, the encoder's window in seconds, samples per batch."""

    encoder: dict
    teacher: dict
    student: dict
    taps: list[int]
    window: int
    samples: int
    dtype: torch.dtype


def llama(layers: int, hidden: int, intermediate: int, tied: bool) -> dict:
    """Return a small Llama with grouped queries and heads of 64."""
    return {
        "model_type": "llama", "vocab_size": 6000, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 128,
        "tie_word_embeddings": tied,
    }  # fmt: skip


def published(name: str) -> dict:
    """Load an architecture of configs/paper."""
    return json.loads(read_text(ARCHITECTURES / f"{name}.json"))


SCALES = {
    "cpu": Scale(
        {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536},
        llama(9, 768, 2048, tied=False),
        llama(8, 512, 1408, tied=True),
        taps=[0, 1, 2, 3],
        window=11,
        samples=4,
        dtype=torch.float32,
    ),
    "narrow": Scale(
        {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 1, "encoder_ffn_dim": 64},
        llama(32, 128, 64, tied=False),
        llama(1, 128, 64, tied=True),
        taps=[0, 1],
        window=1,
        samples=1,
        dtype=torch.float32,
    ),
    "tiny": Scale(
        {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 1, "encoder_ffn_dim": 64},
        llama(2, 128, 64, tied=False),
        llama(1, 128, 64, tied=True),
        taps=[0, 1],
        window=1,
        samples=4,
        dtype=torch.float32,
    ),
    "paper": Scale(
        published("whisper-medium"),
        published("Llama-3.1-8B-Instruct"),
        published("Llama-3.2-3B-Instruct"),
        taps=[5, 11, 17, 23],
        window=30,
        samples=8,
        dtype=torch.bfloat16,
    ),
}


class Setting:
    """Teacher and student with one encoder, and a batch, of one scale on a device; the teacher may be on another."""

    def __init__(self, scale: Scale, device: str, teacher_on: str | None = None):
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(scale.dtype)
        try:
            with torch.device(device):
                whisper = WhisperConfig(
                    **scale.encoder | {"decoder_layers": 0, "max_source_positions": 50 * scale.window}
                )
                self.encoder = SpeechEncoder.from_config(whisper, scale.taps)
                teacher = self._model(scale.teacher).to(teacher_on or device)
                student = self._model(scale.student)
        finally:
            torch.set_default_dtype(before)
        teacher.requires_grad_(False).eval()
        student.llm.requires_grad_(False)
        self.teacher, self.student = (SpeechAudioLM(model, self.encoder, tokenizer()) for model in (teacher, student))
        self.batch = batch(scale, self.encoder).to(device)
        trained = [p for p in student.parameters() if p.requires_grad]
        fused = True if device == "cpu" else None  # as in training
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=fused)

    def negative(self) -> Batch:
        """Return the batch of the teacher's contrastive pass."""
        device = self.batch.input_ids.device
        return negatives.find("zero_mel")(self.batch.to("cpu"), [], self.teacher.reader, None).to(device)

    def _model(self, llm: dict) -> SpeechLM:
        heads = self.encoder.whisper.config.encoder_attention_heads
        return build(llm, self.encoder, None, num_queries=QUERIES, qformer_layers=2, qformer_heads=heads)


@cache
def tokenizer() -> Any:
    """Return the models' tokenizer; the batch's tokens are random."""
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(["Describe the audio."], 100, folder)


def batch(scale: Scale, encoder: SpeechEncoder) -> Batch:
    """Return samples of equal length: a word and the audio, equal for all, then the rest of the prompt, the answer."""
    length = QUERIES + PROMPT + ANSWER
    ids = torch.randint(0, scale.student["vocab_size"], (scale.samples, length))
    ids[1:, : 1 + QUERIES] = ids[0, : 1 + QUERIES]
    audio, labels = torch.zeros_like(ids, dtype=torch.bool), torch.full_like(ids, IGNORE)
    audio[:, 1 : 1 + QUERIES] = True
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    features = torch.randn(scale.samples, encoder.whisper.config.num_mel_bins, 100 * scale.window)
    each = torch.arange(scale.samples)
    return Batch(
        [str(n) for n in each.tolist()], ids, torch.ones_like(ids), audio, labels, {"features": features},
        audio_index=each, audio_sample=each, audio_positions=torch.full_like(each, QUERIES),
    )  # fmt: skip
