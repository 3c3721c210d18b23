"""A tiny world: tones as audio, a two-layer encoder, a teacher, real shards, and configurations on them."""

import json
import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from transformers import WhisperConfig

from caad_ds.data.audio_markers import user_content
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import save
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from data_prep.pack import pack
from tests.command import run_command

CLIPS = 24
LR, STEPS = 1e-2, 6
STORE = "mlflow.db"
# At the shipped threshold of 100,000 values ZeRO-3 would partition nothing of models this small.
ZERO3 = {
    "stage": 3,
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 2000,
    "contiguous_gradients": True,
}
DEEPSPEED = {
    "student.json": {"zero_optimization": ZERO3},
    "teacher.json": {"zero_optimization": ZERO3 | {"offload_param": {"device": "cpu", "pin_memory": True}}},
    "resident.json": {"zero_optimization": ZERO3},
    "nvme.json": {"zero_optimization": ZERO3 | {"offload_param": {"device": "nvme", "buffer_count": 5}}},
}


def llama(layers: int, vocabulary: int, hidden: int = 32, tied: bool = True) -> dict:
    """The architecture of a small Llama."""
    return {
        "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "tie_word_embeddings": tied,
    }  # fmt: skip


def encoder(layers: int = 2, seconds: int = 1) -> SpeechEncoder:
    """A random encoder with a window of so many seconds."""
    torch.manual_seed(0)
    whisper = WhisperConfig(
        d_model=32, encoder_layers=layers, decoder_layers=0, encoder_attention_heads=2, encoder_ffn_dim=64,
        num_mel_bins=80, max_source_positions=50 * seconds,
    )  # fmt: skip
    made = SpeechEncoder.from_config(whisper, taps=[0, 1])
    amplify(made.whisper)
    return made


@torch.no_grad()
def amplify(module: torch.nn.Module, factor: float = 6.0) -> None:
    """Scale random weights up so that different audio gives different states; unscaled ones hardly react to audio."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.mul_(factor)


def records(root: Path, count: int = CLIPS) -> list[dict]:
    """Write `count` tones below `root` and return their records, answered."""
    out = []
    rng = np.random.default_rng(0)
    for n in range(count):
        high = n % 2
        seconds = 0.4 + 0.02 * n
        time = np.arange(int(seconds * 16_000)) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * (800 if high else 200) * time) + 0.01 * rng.standard_normal(len(time))
        soundfile.write(root / f"{n}.wav", wave.astype(np.float32), 16_000)
        word = "high" if high else "low"
        out.append({
            "id": f"clip-{n:02d}", "audios": [{"path": f"{n}.wav", "text": "beep " * (1 + n % 3), "duration": seconds}],
            "messages": [{"role": "user", "content": user_content("Is the tone high or low?")}],
            "metadata": {"tone": word}, "seed_description": f"(Tone: {word})",
            "response": f"The tone is {word}." if n % 3 else f"It is {word}.", "source": "tones",
        })  # fmt: skip
    return out


def make_world(root: Path) -> None:
    """Fill `root` with `shards/`, `teacher/` (a model folder), `tokenizer/` and DeepSpeed's files."""
    rows = records(root)
    manifest = root / "answered.jsonl"
    manifest.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert run_command(pack, "--manifest", manifest, "--out", root / "shards") == 0
    texts = [r["response"] for r in rows] + ["beep beep Is the tone high or low?"] * 4
    tokenizer = train_tokenizer(texts, 60, root / "tokenizer")
    speech_encoder = encoder()
    teacher = build(llama(2, len(tokenizer)), speech_encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2)
    amplify(teacher.connector)
    amplify(teacher.llm.model.layers)
    save(root / "teacher", teacher, speech_encoder, tokenizer)
    for name, values in DEEPSPEED.items():
        (root / name).write_text(json.dumps(values))


def config(world: Path, out: Path, **changes: dict | None) -> Path:
    """Write a distillation config on the tiny world; `changes` replace keys of sections, `section={key: value}`.

    A section or key given as None is left out. The store of all runs is `mlflow.db` beside `out`; where the world has
    one with MLflow's tables, it begins as a copy of that, since they take a run more than a second to make.
    """
    own = f"sqlite:///{out.parent}/{STORE}"
    vocabulary = json.loads((world / "teacher/config.json").read_text())["llm_config"]["vocab_size"]
    values: dict = {
        "run": {"name": "tiny", "output_dir": str(out), "log_every": 1},
        "data": {"train": str(world / "shards")},
        "teacher": {
            "path": str(world / "teacher"), "negative": "zero_mel", "deepspeed": str(world / "teacher.json"),
        },
        "student": {
            "llm": llama(1, vocabulary, 16), "encoder": str(world / "teacher"), "taps": [0, 1],
            "window_seconds": 1, "num_queries": 4, "qformer_layers": 1, "qformer_heads": 2, "train": "all",
            "deepspeed": str(world / "student.json"),
        },
        "objective": {"name": "distill", "alpha": 1.0},
        "optimizer": {"lr": LR, "warmup_steps": 2, "steps": STEPS, "batch_size": 8},
        "tracking": {"uri": own, "experiment": "tests"},
    }  # fmt: skip
    for section, keys in changes.items():
        merged = values.get(section, {}) | (keys or {})
        values[section] = None if keys is None else {k: v for k, v in merged.items() if v is not None}
    tables, store = world / STORE, out.parent / STORE
    tracking = values["tracking"] or {}
    if tracking.get("enabled", True) and tracking.get("uri") == own and tables.exists() and not store.exists():
        shutil.copy(tables, store)
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return path


def shared_vocabulary(student: AudioLM, teacher: AudioLM) -> SharedVocabulary:
    """The tokens that both models have in common."""
    rows = len(student.head().weight), len(teacher.head().weight)
    return SharedVocabulary.of(student.reader, teacher.reader, rows)


def start_from(folder: Path) -> dict:
    """The keys of a student that begins as a model folder, for `config`."""
    fresh = ("llm", "encoder", "taps", "window_seconds", "num_queries", "qformer_layers", "qformer_heads", "tokenizer")
    return dict.fromkeys(fresh) | {"path": str(folder)}


def ce(world: Path, out: Path, **changes: dict | None) -> Path:
    """A configuration of objective `ce`, which has no teacher."""
    student = {"tokenizer": str(world / "tokenizer")} | (changes.pop("student", None) or {})
    objective = {"name": "ce"} | (changes.pop("objective", None) or {})
    path = config(world, out, teacher=None, student=student, **changes)
    values = yaml.safe_load(path.read_text())
    values["objective"] = objective
    path.write_text(yaml.safe_dump(values))
    return path
