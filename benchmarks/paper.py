"""Training runs at the paper's scale with random weights: cost of placements and student modes on this machine.

    python benchmarks/paper.py [--work DIR] [--rows NAME ...] [--steps 30] [--cap-gb 24] [--tiny]

Each row is a complete run of `caad-ds train`. Models of the paper's shapes (Whisper-medium, 8B teacher, 3B student) are
created once below --work (24 GB), with noise clips and answers of about 100 random words. Times are means over the last
ten steps, as logged by the run; `start` is the time before the first step, `end` the time after the last. --tiny uses
models for a CPU, to try the script.
"""

import random
import sys
from pathlib import Path

import torch
from transformers import WhisperConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.step_models import published
from benchmarks.training_runs import Setting, main, noise_shards
from caad_ds.config.inheritance import merged, read_files
from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import save
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM

CLIPS, SECONDS, WORDS = 64, 5, 100
QUESTION = "Describe the audio in your own words."
TINY = {
    "whisper": {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64},
    "teacher": {"hidden_size": 64, "num_hidden_layers": 3},
    "student": {"hidden_size": 32, "num_hidden_layers": 2},
}  # fmt: skip
SMALL_CARD = {
    "optimizer": {"micro_batch": 1},
    "student": {"deepspeed": "student_24gb.json", "gradient_checkpointing": True},
}
ROWS: dict[str, dict] = {
    "auto": {},
    "cpu": {"teacher": {"placement": "cpu"}},
    "nvme": {"teacher": {"placement": "nvme"}},
    "24 GB": SMALL_CARD,
    "LoRA": {"student": {"train": "lora", "gradient_checkpointing": True}},
    "ZeRO-3": {"student": {"deepspeed": "student_zero3.json"}},
}


def architectures(tiny: bool) -> dict[str, dict]:
    """Return the architectures of Whisper, teacher and student."""
    names = {
        "whisper": "whisper-medium", "teacher": "Llama-3.1-8B-Instruct", "student": "Llama-3.2-3B-Instruct",
    }  # fmt: skip
    found = {part: published(name) for part, name in names.items()}
    if not tiny:
        return found
    llama = {
        "model_type": "llama", "vocab_size": 500, "intermediate_size": 96, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 512, "tie_word_embeddings": True,
    }  # fmt: skip
    return {"whisper": TINY["whisper"]} | {part: llama | TINY[part] for part in ("teacher", "student")}


def make(work: Path, tiny: bool) -> None:
    """Write shards, encoder, the student's LLM and the teacher below `work`."""
    words = random.Random(0)
    vocabulary = ["".join(words.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(200)]
    answers = [" ".join(words.choices(vocabulary, k=words.randrange(WORDS - 20, WORDS + 20))) for _ in range(CLIPS)]
    noise_shards(work, [float(SECONDS)] * CLIPS, answers, QUESTION)
    tokenizer = train_tokenizer([f"{answer} {QUESTION}" for answer in answers], 400, work / "tokenizer")
    models(work, architectures(tiny), tokenizer, tiny)


def models(work: Path, shapes: dict[str, dict], tokenizer: object, tiny: bool) -> None:
    """Write the teacher's folder, with its encoder, and the student's LLM, in bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    with torch.device(device):
        encoder = random_encoder(shapes["whisper"], tiny)
        for part in ("teacher", "student"):
            model = random_model(shapes[part], encoder)
            if part == "teacher":
                save(work / "teacher", model.to(torch.bfloat16), encoder, tokenizer)
            else:
                model.llm.to(torch.bfloat16).save_pretrained(work / "student")
            del model
    torch.set_default_dtype(torch.float32)


def random_encoder(whisper: dict, tiny: bool) -> SpeechEncoder:
    """Create a Whisper encoder with random weights, in the default dtype on the default device."""
    window, taps = (6, [0, 1]) if tiny else (30, [5, 11, 17, 23])
    return SpeechEncoder.from_config(
        WhisperConfig(**whisper | {"decoder_layers": 0, "max_source_positions": 50 * window}), taps
    )


def random_model(llm: dict, encoder: SpeechEncoder) -> SpeechLM:
    """Create an LLM behind the paper's connector with random weights, in the default dtype on the default device."""
    heads = encoder.whisper.config.encoder_attention_heads
    return build(llm, encoder, None, num_queries=64, qformer_layers=2, qformer_heads=heads, connector="desta")


def values(work: Path, tiny: bool) -> dict[str, dict]:
    """Return configs/paper/caad.yaml for these weights and shards."""
    paper = Path(__file__).resolve().parents[1] / "configs/paper/caad.yaml"
    values = merged(read_files(paper))
    values["data"]["train"] = str(work / "shards")
    values["teacher"]["path"] = str(work / "teacher")
    values["student"] |= {
        "llm": str(work / "student"), "encoder": str(work / "teacher"), "tokenizer": str(work / "teacher"),
    }  # fmt: skip
    if tiny:
        values["student"] |= {"taps": [0, 1], "window_seconds": 6, "qformer_heads": 2}
    del values["optimizer"]["epochs"]
    return values


if __name__ == "__main__":
    main(Setting("paper", make, values, ROWS, ("encoder", "teacher", "student", "loss", "data"), steps=30), __doc__)
