"""A tiny world for training tests: tones as audio, a two-layer encoder, teacher and student, real shards."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from transformers import WhisperConfig

from caad_ds.data.markers import user_content
from caad_ds.models.encoder import SpeechEncoder
from caad_ds.models.speech_lm import build, save
from caad_ds.models.tokenizer import train_tokenizer
from data_prep import pack

ROOT = Path(__file__).parents[2]
CLIPS = 24


def llama(layers: int, vocabulary: int, hidden: int = 32) -> dict:
    return {
        "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "tie_word_embeddings": True,
    }  # fmt: skip


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with `shards/`, `teacher/` (a model folder) and `tokenizer/`."""
    root = tmp_path_factory.mktemp("world")
    records = []
    rng = np.random.default_rng(0)
    for n in range(CLIPS):
        high = n % 2
        seconds = 0.4 + 0.02 * n
        time = np.arange(int(seconds * 16_000)) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * (800 if high else 200) * time) + 0.01 * rng.standard_normal(len(time))
        soundfile.write(root / f"{n}.wav", wave.astype(np.float32), 16_000)
        word = "high" if high else "low"
        records.append({
            "id": f"clip-{n:02d}", "audios": [{"path": f"{n}.wav", "text": "beep " * (1 + n % 3), "duration": seconds}],
            "messages": [{"role": "user", "content": user_content("Is the tone high or low?")}],
            "metadata": {"tone": word}, "seed_description": f"(Tone: {word})",
            "response": f"The tone is {word}." if n % 3 else f"It is {word}.", "source": "tones",
        })  # fmt: skip
    manifest = root / "answered.jsonl"
    manifest.write_text("".join(json.dumps(r) + "\n" for r in records))
    parser = argparse.ArgumentParser()
    pack.register(parser)
    assert pack.run(parser.parse_args(["--manifest", str(manifest), "--out", str(root / "shards")])) == 0
    texts = [r["response"] for r in records] + ["beep beep Is the tone high or low?"] * 4
    tokenizer = train_tokenizer(texts, 60, root / "tokenizer")
    torch.manual_seed(0)
    whisper = WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=0, encoder_attention_heads=2, encoder_ffn_dim=64,
        num_mel_bins=80, max_source_positions=50,
    )  # fmt: skip
    encoder = SpeechEncoder.from_config(whisper, taps=[0, 1])
    teacher = build(llama(2, len(tokenizer)), encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2)
    save(root / "teacher", teacher, encoder, tokenizer)
    return root


def config(world: Path, out: Path, **changes) -> Path:
    """Write a distillation config on the tiny world; `changes` replace keys of sections, `section={key: value}`."""
    vocabulary = json.loads((world / "teacher/config.json").read_text())["llm_config"]["vocab_size"]
    values: dict = {
        "run": {"name": "tiny", "output_dir": str(out), "log_every": 1},
        "data": {"train": str(world / "shards")},
        "teacher": {"path": str(world / "teacher"), "negative": "zero_mel"},
        "student": {
            "llm": llama(1, vocabulary, 16), "encoder": str(world / "teacher/encoder"), "taps": [0, 1],
            "window_seconds": 1, "num_queries": 4, "qformer_layers": 1, "qformer_heads": 2, "train": "all",
        },
        "objective": {"name": "distill", "alpha": 1.0},
        "optimizer": {"lr": 1e-2, "warmup_steps": 2, "steps": 6, "batch_size": 8},
        "tracking": {"uri": f"sqlite:///{out.parent}/mlflow.db", "experiment": "tests"},
    }  # fmt: skip
    for section, keys in changes.items():
        values[section] = None if keys is None else values.get(section, {}) | keys
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return path


def launch(config_file: Path, ranks: int, *arguments: str, **kwargs) -> subprocess.Popen:
    """Start `train.py` under DeepSpeed's launcher as a user does."""
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    env = {k: v for k, v in env.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    port = str(29_500 + os.getpid() % 1000)
    command = [
        sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks), "--master_port", port,
        str(ROOT / "caad_ds/train.py"), "--config", str(config_file), *arguments,
    ]  # fmt: skip
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)


def train(config_file: Path, ranks: int = 1, *arguments: str, timeout: float = 180) -> tuple[int, str]:
    """Run to the end; exit status and output."""
    process = launch(config_file, ranks, *arguments)
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output
