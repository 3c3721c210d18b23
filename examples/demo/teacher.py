"""The demo's teacher and its twin: corpus, tokenizer, encoder, CE training with train.py, scores."""

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import torch

from caad_ds.models.speech_lm.encoder_folder import save_encoder
from caad_ds.models.speech_lm.folder import load, save
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.utils.files import write_atomic
from caad_ds.utils.text import read_text
from examples.demo import corpus
from examples.demo.commands import Job, caad_ds, run_all
from examples.demo.encoder import train_encoder
from examples.demo.tokenizer import make_tokenizer

CONFIG = "configs/demo/teacher.yaml"
SHIPPED = Path("examples/demo/teacher_model")
TWIN = "twin"
ENCODER_STEPS = 400
MODEL_CARD = """\
---
license: apache-2.0
---
# Teacher of the caad-ds demo

A speech language model of 1.4 million parameters with its encoder, and in `twin` the same without audio dropout. Both
were trained from random weights on synthetic speech by `python -m examples.demo teacher`; `card.json` has recipe,
scores and hashes.
"""
SCORES = ("accuracy_neutral", "accuracy_faithful", "accuracy_adversarial", "accuracy_irrelevant", "shift")


def shipped(kind: str) -> Path:
    """Return the folder of the shipped teacher or its twin."""
    return SHIPPED / TWIN if kind == TWIN else SHIPPED


def make_parts(root: Path, seed: int) -> tuple[Path, Path]:
    """Make tokenizer and encoder of one teacher seed below `root`, unless they exist."""
    tokenizer, encoder = root / "tokenizer", root / f"encoder-{seed}"
    if not (tokenizer / "tokenizer.json").exists():
        make_tokenizer(tokenizer)
    if not encoder.exists():
        partial = encoder.with_suffix(".partial")
        save_encoder(partial, train_encoder(root / "audio", ENCODER_STEPS, seed))
        partial.rename(encoder)
    return tokenizer, encoder


def teacher_jobs(root: Path, runs: Path, seed: int, extra: tuple[str, ...] = ()) -> dict[str, Job]:
    """Return the jobs that train teacher and twin, which differ only in audio dropout, into `<runs>/<kind>/model`."""
    tokenizer, encoder = make_parts(root, seed)
    jobs = {}
    for kind, dropout in (("teacher", None), (TWIN, 0.0)):
        overrides = [
            f"run.name={kind}-{seed}", f"run.output_dir={runs / kind}", f"run.seed={seed}",
            f"data.train={root}/shards/teacher", f"student.encoder={encoder}", f"student.tokenizer={tokenizer}", *extra,
        ]  # fmt: skip
        overrides += [] if dropout is None else [f"objective.audio_dropout={dropout}"]
        jobs[kind] = Job(CONFIG, tuple(overrides), runs / kind)
    return jobs


def make_teacher(root: Path, runs: Path, seed: int = 0) -> None:
    """Train the shipped teacher and its twin again; write settings, scores and hashes to `card.json`."""
    corpus.synthesize(root, {"teacher": corpus.SIZES["teacher"], "validation": corpus.SIZES["validation"]})
    corpus.shards(root, "teacher")
    benchmark = corpus.benchmark(root, "validation")
    jobs = list(teacher_jobs(root, runs, seed).values())
    # One process per model: on two cores, 1.5 times as fast as training them in turn with two ranks.
    run_all(jobs, min(len(jobs), os.cpu_count() or 1), "teacher and twin")
    partial = SHIPPED.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_encoder(partial / "encoder", _store(runs / "teacher" / "model", partial))  # alone, for other students
    _store(runs / TWIN / "model", partial / TWIN)
    shutil.rmtree(SHIPPED, ignore_errors=True)
    partial.rename(SHIPPED)
    _write_card(runs, benchmark, seed)
    size = sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file())
    print(f"{SHIPPED}: {size / 1e6:.1f} MB, scores on unseen voices and hashes in card.json")


def _write_card(runs: Path, benchmark: Path, seed: int) -> None:
    """Write the command, the scores of each model on unseen voices, and the hash of every weight file."""
    scores = {}
    for kind in ("teacher", TWIN):
        out = runs / kind / "evaluation"
        shutil.rmtree(out, ignore_errors=True)
        caad_ds("evaluate", "--model", shipped(kind), "--benchmark", benchmark, "--out", out, "--name", kind)
        groups = json.loads(read_text(out / "scores.json"))["groups"]
        scores[kind] = {
            subset: {name: round(100 * group[name]["value"], 1) for name in SCORES} for subset, group in groups.items()
        }
    hashes = {
        str(path.relative_to(SHIPPED)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(SHIPPED.rglob("*.safetensors"))
    }
    made = f"python -m examples.demo teacher --seed {seed}"
    versions = {package: version(package) for package in ("torch", "transformers", "deepspeed")}
    recipe = {"made_by": made, "config": CONFIG, "hints": corpus.HINTS["teacher"], "encoder_steps": ENCODER_STEPS}
    card = {**recipe, "versions": versions, "scores_percent": scores, "sha256": hashes}
    write_atomic(SHIPPED / "card.json", (json.dumps(card, indent=1) + "\n").encode())
    write_atomic(SHIPPED / "README.md", MODEL_CARD.encode())


def _store(trained: Path, folder: Path) -> SpeechEncoder:
    """Write a trained model in half precision; returns its encoder."""
    model, encoder, tokenizer = load(trained)
    encoder.whisper.to(torch.float16)
    save(folder, model.to(torch.float16), encoder, tokenizer)
    return encoder
