"""`caad-ds plan`: every shipped config, tables and JSON, refused inputs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from caad_ds.cli import main
from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.data.shard_index import ShardIndex
from caad_ds.training.device_datasheets import DEVICES, known_peak
from caad_ds.training.plan import formulas
from caad_ds.training.plan.formulas import Heads
from caad_ds.training.plan.meta_models import numel, student_of, teacher_described, teacher_of
from caad_ds.training.plan.plan import plan
from tests.config.test_shipped_configs import RUNS
from tests.root import CONFIGS, ROOT
from tests.training.tiny import config

LLAMA = str(CONFIGS / "paper/architectures/Llama-3.1-8B-Instruct.json")


def command(*words: object) -> int:
    """`caad-ds plan` as the console script runs it."""
    return main(["plan", *map(str, words)])


GIVEN = ["--samples", "1000", "--tokens", "136"]
ZERO = {"stage": 2, "reduce_bucket_size": 1000, "overlap_comm": True}


# A run of each kind of teacher and student; the other shipped ones differ from these in sizes and settings.
REHEARSED = {
    "demo/caad", "demo/teacher", "paper/caad", "recorded/caad", "qwen2_audio/small", "qwen2_audio/speech_lm",
    "qwen2_5_omni/small", "voxtral/small",
}  # fmt: skip


def name(path: Path) -> str:
    """Folder and name of a shipped config."""
    return f"{path.parent.name}/{path.stem}"


def shipped(path: Path, monkeypatch) -> tuple[Config, str | None]:
    """A shipped config and the teacher that its plan names; without weights, data, processors or the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # hub ids are those of shipped architectures
    here = [f"student.encoder={ROOT / 'examples/demo/teacher_model/encoder'}"]  # the demo's teacher.yaml trains its own
    cfg = load_config(path, here if name(path) == "demo/teacher" else [])
    teacher = {"paper": LLAMA, "recorded": str(CONFIGS / "recorded/teacher.yaml")}.get(path.parent.name)
    return cfg, teacher if cfg.teacher else None


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RUNS if name(path) in REHEARSED], ids=name)
def test_shipped_configs(path, monkeypatch):
    cfg, teacher = shipped(path, monkeypatch)
    found = plan(cfg, teacher=teacher, samples=1000, tokens=136)
    assert found.flops["online"]["total"] > 0 and found.hours["online"] > 0
    assert all(parts["peak"] > parts["student"] for parts in found.memory.values())
    assert ("cached" in found.memory) == (cfg.teacher is not None)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RUNS if name(path) not in REHEARSED], ids=name)
def test_models_of_the_other_shipped_configs(path, monkeypatch):
    cfg, teacher = shipped(path, monkeypatch)
    described = teacher_described(cfg, teacher)
    student = student_of(cfg, described)
    assert 0 < numel(student.lm.module, trained=True) <= numel(student.lm.module)
    assert described is None or numel(teacher_of(cfg, described).lm.module) >= numel(student.lm.module)


def test_tables_of_a_run(world, tmp_path, capsys):
    assert command(config(world, tmp_path / "out"), "--device", "rtx4090") == 0
    shown = capsys.readouterr().out
    for what in (
        "TFLOP per step",
        "Memory per rank in GB",
        "cache, pair",
        "filling, pair",
        "moment: backward",
        "teacher: cpu (as ",
    ):
        assert what in shown


def test_json_of_a_run(world, tmp_path, capsys):
    """Steps and tokens are the index's, placements and files the config's."""
    path = config(world, tmp_path / "out", optimizer={"steps": None, "epochs": 2}, run={"precision": "bf16"})
    assert command(path, "--json", "--mfu", "0.5") == 0
    found = json.loads(capsys.readouterr().out)
    size = len(ShardIndex.load(world / "shards"))
    assert found["data"]["samples"] == size and found["data"]["steps"] == 2 * size / 8
    assert found["flops"]["cached"]["teacher"] == 0 < found["flops"]["online"]["teacher"]
    assert found["flops"]["authors"]["total"] > found["flops"]["online"]["total"]
    assert 0 < found["hours"]["cached"] < found["hours"]["online"]
    rows = found["data"]["answer_rows_per_epoch"]
    assert found["files"]["cache, pair"] - found["files"]["cache, contrast"] == pytest.approx(rows * 32 * 2, rel=0.01)
    assert found["parameters"]["teacher"]["llm"] > found["parameters"]["student"]["llm"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "tpu"], "--device tpu: not known; known are h100-pcie, h100-nvl, h100,"),
        ([], "teacher.path runs/paper/teacher/model is not there yet; give --teacher"),
        (["--teacher", "absent.json"], "absent.json: no such architecture file"),
        (["--teacher", str(CONFIGS / "paper/architectures/whisper-medium.json")], "a model of type whisper is not"),
        (["--nodes", "2"], "--nodes 2 needs --gpus-per-node"),
        (["--gpus-per-node", "3"], "optimizer.batch_size 8 is not a multiple of 3 ranks"),
        (["--mfu", "31"], "31 is no share above 0 and at most 1"),
        (["--answer-tokens", "136"], "--answer-tokens 136 is not below --tokens 136"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert command(CONFIGS / "paper/caad.yaml", *GIVEN, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "data.train data/paper/shards/train has no index to read yet; give --samples"),
        (["--samples", "10"], "--samples needs --tokens"),
    ],
)
def test_data_that_is_not_there(words, message, capsys):
    assert command(CONFIGS / "paper/caad.yaml", "--teacher", LLAMA, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_gate_takes_a_product_that_a_cache_saves(world, tmp_path):
    """Online it needs the logits of the negative path; who fills a cache computes both paths' scalars as well."""
    found = []
    for gate in ("none", "text_certainty"):
        cfg = load_config(config(world, tmp_path / gate, objective={"alpha_gate": gate}))
        found.append(plan(cfg, device="rtx4090"))
    fixed, gated = found
    teacher_head = gated.flops["online"]["heads"] - fixed.flops["online"]["heads"]
    assert teacher_head > 0 and gated.flops["cached"] == fixed.flops["cached"]
    assert fixed.flops["cached"]["heads"] == fixed.flops["online"]["heads"]
    for run in ("cached", "filling, pair", "cache-teacher, pair"):
        assert fixed.hours[run] == gated.hours[run]


def test_states_are_divided_over_ranks():
    """Gradients and optimizer from stage 1 on, weights at stage 3 alone; an offloaded optimizer is the host's."""
    settings = {"zero_optimization": ZERO, "data_types": {"grad_accum_dtype": "fp32"}}
    one, four = (formulas.student_states(10_000, 4_000, 2, settings, ranks) for ranks in (1, 4))
    assert (one.weights, one.optimizer, one.gradients) == (20_000, 48_000, 16_000 + 2 * 1000 * 2)
    assert (four.weights, four.optimizer, four.gradients) == (20_000, 12_000, 4_000 + 2 * 1000 * 2)
    away = formulas.student_states(
        10_000, 4_000, 2, settings | {"zero_optimization": ZERO | {"offload_optimizer": {"device": "cpu"}}}, 4
    )
    assert (away.optimizer, away.step, away.gradients) == (0, 0, 4_000) and away.host == 12_000 + 12_000 + 4_000
    whole = {"stage": 3, "reduce_bucket_size": 0, "stage3_max_live_parameters": 100}
    assert formulas.student_states(10_000, 0, 2, {"zero_optimization": whole}, 4).weights == 5_000 + 200


def test_the_loss_holds_a_chunk_and_heads_that_train_their_gradient():
    heads = Heads(rows=10_000, vocabulary=128_256, student_width=3072, teacher_width=4096, products=1, trains=False)
    running, left = formulas.loss_bytes(heads, 2, 4, "cuda")
    states = 2 * 10_000 * 3072
    assert (running, left) == (512 * 128_256 * (4 + 4 + 2) + states, states)
    table = 128_256 * 3072
    assert formulas.loss_bytes(replace(heads, trains=True), 2, 4, "cuda") == (running + 8 * table, left + 4 * table)
    assert formulas.head_flops(heads) == 2 * 10_000 * 128_256 * (2 * 3072 + 4096)


def test_a_cache_has_both_paths_or_their_contrast():
    assert formulas.cache_bytes(10, 4096, 2, "pair") == 10 * (2 * 2 * 4096 + 20)
    assert formulas.cache_bytes(10, 4096, 4, "contrast") == 10 * (4 * 4096 + 20)


def test_peaks_by_the_name_that_cuda_gives():
    assert known_peak("NVIDIA H100 80GB HBM3") == DEVICES["h100"].bf16
    assert known_peak("NVIDIA H100 PCIe") == DEVICES["h100-pcie"].bf16
    assert known_peak("NVIDIA L40S") == DEVICES["l40s"].bf16 and known_peak("NVIDIA L40") == DEVICES["l40"].bf16
    assert known_peak("Tesla T4") is None
