"""Memory that a plan predicts against memory that was measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.encoder_folder import load_encoder
from caad_ds.models.speech_lm.folder import save
from caad_ds.training.device_datasheets import DEVICES
from caad_ds.training.plan.memory_plan import Engines, MemoryPlan
from caad_ds.training.plan.meta_models import student_of, teacher_described, teacher_of
from caad_ds.training.plan.plan import plan
from caad_ds.training.plan.rehearsal import Shape, rehearse
from caad_ds.utils.memory import MIB
from tests.root import CONFIGS, ROOT
from tests.training.plan.measured import ENVIRONMENT

PAGE = (ROOT / "benchmarks/results/step_h100.md").read_text()
PAPER = CONFIGS / "paper/architectures"
RECORDED = CONFIGS / "recorded/architectures"
DEMO_TEACHER = ROOT / "examples/demo/teacher_model"


def benchmark(student_file: str) -> Config:
    """What benchmarks/step.py --scale paper has: our own connector's form, the encoder in bf16."""
    return Config.model_validate({
        "run": {"output_dir": "unused", "precision": "bf16", "encoder_precision": "bf16"}, "data": {"train": "unused"},
        "teacher": {"path": str(PAPER / "Llama-3.1-8B-Instruct.json")},
        "student": {
            "llm": str(PAPER / "Llama-3.2-3B-Instruct.json"), "encoder": str(PAPER / "whisper-medium.json"),
            "taps": [5, 11, 17, 23], "qformer_heads": 16, "tokenizer": "unused", "deepspeed": student_file,
        },
        "optimizer": {"steps": 1},
    })  # fmt: skip


def measured(row: str, last: bool = False) -> tuple[int, int]:
    """Return the peak above the weights and the total peak of a row of the page, in MiB."""
    found = re.findall(rf"\| {row} \|.*\| (\d+) \((\d+)\) \|", PAGE)
    above, whole = found[-1 if last else 0]
    return int(above), int(whole)


@pytest.fixture(scope="module")
def rehearsed():
    """Both models of the benchmark, and what batches of 8 and of 16 samples take."""
    cfg = benchmark("student_zero3.json")
    described = teacher_described(cfg, None)
    models = student_of(cfg, described), teacher_of(cfg, described)
    return models, [rehearse(*models, "zero_mel", Shape(n, 40, 96, 136, n, 10.0)) for n in (8, 16)]


def total(row: str, capped: bool) -> int:
    """The total peak of a row of the page, in MiB.

    The uncapped cpu row ran after another setting, whose models are in its total: those of the capped row stand in.
    """
    above, whole = measured(row, last=capped)
    if row.endswith("cpu") and not capped:
        above_capped, whole_capped = measured(row, last=True)
        return whole_capped - above_capped + above
    return whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("placed", "capped"), [("resident", False), ("cpu", False), ("cpu", True)], ids=["resident", "cpu", "cpu capped"]
)
def test_peaks_on_an_h100_in_engines(rehearsed, placed, capped):
    """The page's rows with the student in ZeRO-3."""
    models, costs = rehearsed
    engines = Engines(benchmark("student_zero3.json"), DEVICES["h100"], 1, *models)
    found = MemoryPlan(engines, 8, 1, *costs).of(placed, 8)["peak"] / MIB
    assert found == pytest.approx(total(f"ours in engines, teacher {placed}", capped), rel=0.15)


@pytest.mark.slow
def test_the_peak_on_an_h100_without_engines(rehearsed):
    """Activations and loss above the weights, within 5%; besides, only AdamW's moments in bf16 are in memory."""
    models, costs = rehearsed
    engines = Engines(benchmark("student_zero3.json"), DEVICES["h100"], 1, *models)
    found = MemoryPlan(engines, 8, 1, *costs).of("replicated", 8)
    most = max(value for name, value in found.items() if name.startswith("in "))
    above, whole = measured("ours")
    assert most / MIB == pytest.approx(above, rel=0.05)
    held = sum(found[name] for name in ("encoder", "student", "teacher")) + 4 * engines.held(trained=True)
    assert (held + most) / MIB == pytest.approx(whole, rel=0.05)


def trained(config: Path, out: Path, *overrides: str) -> float:
    """Run in a separate process; returns its peak in MiB."""
    words = [sys.executable, "-m", "tests.training.plan.measured", str(config), str(out), *overrides]
    ended = subprocess.run(words, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return float(re.findall(r"peak MiB ([\d.]+)", ended.stdout)[-1])


def short(shards: Path, *more: str) -> list[str]:
    """Two steps of a shipped config on other data."""
    steps = ["optimizer.steps=2", "optimizer.warmup_steps=1", "checkpoint.every=2", "tracking.enabled=false"]
    return [f"data.train={shards}", *steps, *more]


def close(found: float, expected: float) -> bool:
    """Within 15%, or 100 MB."""
    return abs(found - expected) <= max(0.15 * expected, 100e6 / MIB)


@pytest.fixture(scope="module")
def recorded_teacher(tmp_path_factory) -> Path:
    """A teacher of the shapes of configs/recorded with random weights, and the demo's tokenizer."""
    folder = tmp_path_factory.mktemp("recorded") / "teacher"
    torch.manual_seed(0)
    speech_encoder = load_encoder(RECORDED / "whisper-tiny.en.json", [0, 1, 2, 3], 8)
    llm = str(RECORDED / "SmolLM2-135M-Instruct.json")
    model = build(llm, speech_encoder, None, num_queries=8, qformer_layers=2, qformer_heads=6, normalize_states=True)
    save(folder, model.to(torch.bfloat16), speech_encoder, AutoTokenizer.from_pretrained(DEMO_TEACHER))
    return folder


@pytest.mark.slow
def test_a_run_of_the_recorded_example(world, recorded_teacher, tmp_path):
    config = CONFIGS / "recorded/caad.yaml"
    sets = short(world / "shards", f"teacher.path={recorded_teacher}", f"student.path={recorded_teacher}")
    found = plan(load_config(config, sets), device="cpu").memory["cpu"]["peak"] / MIB
    expected = trained(config, tmp_path, *sets)
    assert expected > 2000  # far more than the 100 MB
    assert close(found, expected), (found, expected)


@pytest.mark.slow
def test_a_run_of_the_demo(world, tmp_path):
    config = CONFIGS / "demo/caad.yaml"
    shards = world / "shards"
    models = f"teacher.path={DEMO_TEACHER}", f"student.path={DEMO_TEACHER}"
    sets = short(shards, f"data.validation={shards}", f"teacher.cache.path={tmp_path / 'cache'}", *models)
    found = plan(load_config(config, sets), device="cpu")
    assert close(found.memory["filling"]["peak"] / MIB, trained(config, tmp_path, *sets))
    written = sum(path.stat().st_size for path in (tmp_path / "run/checkpoints").rglob("*") if path.is_file())
    assert found.files["checkpoint"] == pytest.approx(written, rel=0.05)
