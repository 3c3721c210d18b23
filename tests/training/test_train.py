"""A complete run on two ranks under DeepSpeed's launcher, as in the README."""

import hashlib
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from caad_ds.config.reading import load_config
from caad_ds.models.model_hashes import model_hash
from caad_ds.models.speech_lm.folder import load
from tests.tolerance import assert_close
from tests.training.launching import curve, deepspeed, tracked, weights
from tests.training.tiny import config

STEPS = 12


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """The run's output folder and its log."""
    out = tmp_path_factory.mktemp("train") / "out"
    file = config(
        world, out, optimizer={"steps": STEPS}, data={"validation": str(world / "shards")}, validation={"every": 6},
        run={"peak_tflops": 0.1},
    )  # fmt: skip
    ended = deepspeed(file, 2)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return out, ended


def test_the_model_folder_loads_and_has_learned(finished, world):
    out, _ = finished
    student, encoder, tokenizer = load(out / "model")
    assert student.config.llm_config.num_hidden_layers == 1 and encoder.taps == [0, 1]
    assert len(tokenizer) == student.config.llm_config.vocab_size
    assert student.llm.lm_head.weight is student.llm.model.embed_tokens.weight
    losses = [value for _, value in curve(out, "train/ce")]
    assert losses[-1] < losses[0] - 0.5


def test_the_mlflow_store_holds_the_whole_curve(finished):
    out, _ = finished
    client, run = tracked(out)
    assert run.info.status == "FINISHED" and run.info.run_name == "tiny"
    assert run.data.params["objective.alpha"] == "1.0"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
    for metric in ("loss", "kd", "ce", "agreement", "teacher_entropy", "lr", "grad_norm", "samples_per_second"):
        assert [step for step, _ in curve(out, f"train/{metric}")] == list(range(1, STEPS + 1)), metric
    assert [step for step, _ in curve(out, "validation/kd")] == [6, 12]
    for stage in ("train", "validation"):
        loss, kd, ce = ([value for _, value in curve(out, f"{stage}/{term}")] for term in ("loss", "kd", "ce"))
        assert_close(loss, [0.7 * a + 0.3 * b for a, b in zip(kd, ce, strict=True)], terms=4)


def test_the_run_names_its_origin_its_data_and_its_model(finished, world):
    out, ended = finished
    run = tracked(out)[1]
    tags = run.data.tags
    assert (tags["mlflow.source.name"], tags["kind"], tags["world_size"]) == ("train.py", "training", "2")
    assert tags["command"].startswith("train.py ") and f"--config {out.with_suffix('.yaml')}" in tags["command"]
    assert tags["mlflow.user"] and tags["host"] and tags["device"] and tags["version.deepspeed"]
    assert tags["model_sha256"] == model_hash(out / "model")
    index = hashlib.sha256((world / "shards/index.json").read_bytes()).hexdigest()
    [data] = run.inputs.dataset_inputs  # training and validation are the same here
    assert data.dataset.digest == index[:36] and json.loads(data.dataset.source) == {"uri": str(world / "shards")}
    [mlflow_line] = [line for line in ended.stdout.splitlines() if line.startswith("MLflow: ")]
    assert f"run {run.info.run_id}; curves: `caad-ds dashboard --mlflow " in mlflow_line


def test_what_the_run_costs_is_on_record(finished):
    out, _ = finished
    parts = [f"share/{part}" for part in ("data", "encoder", "teacher", "student", "loss")]
    numbers = {name: [value for _, value in curve(out, f"train/{name}")] for name in [*parts, "padding", "memory_gb"]}
    for name in parts:
        assert len(numbers[name]) == STEPS and all(0 <= value < 1 for value in numbers[name]), name
    assert all(0.2 < sum(shares) <= 1 for shares in zip(*(numbers[name] for name in parts), strict=True))
    assert all(0 < value < 0.5 for value in numbers["padding"])
    assert all(0.1 < value < 24 for value in numbers["memory_gb"])
    used = [value for _, value in curve(out, "train/mfu")]
    assert len(used) == STEPS and all(1e-4 < value < 1 for value in used)
    rates = [[value for _, value in curve(out, f"train/{unit}_per_second")] for unit in ("tokens", "samples")]
    assert all(20 < tokens / samples < 60 for tokens, samples in zip(*rates, strict=True))


def test_the_resolved_config_is_kept_and_reads_back(finished):
    out, _ = finished
    kept = load_config(out / "config.yaml")
    assert kept == load_config(out.with_suffix(".yaml"))
    assert yaml.safe_load((out / "config.yaml").read_text())["objective"]["temperature"] == 2.0


def test_the_last_checkpoint_holds_the_final_weights(finished):
    out, _ = finished
    trained = load_file(out / "checkpoints" / f"step-{STEPS:08d}" / "trainable.safetensors")
    final = weights(out)
    shared = set(trained) & set(final)
    assert shared == set(final)
    assert all(torch.equal(trained[name], final[name]) for name in shared)


def test_nothing_but_the_run_speaks(finished):
    _, ended = finished
    known = ("tiny: ", "teacher: ", "joining ", "loading ", "looking for ", "building ", "step ", "validat", "writing ")
    known += ("finished: ", "loss: ", "vocabulary: ", "to checkpoint and stop: kill -USR1 ", "starting DeepSpeed")
    known += ("MLflow: ",)
    others = [line for line in ended.stdout.splitlines() if not line.startswith(known)]
    assert all("[launch.py:" in line or "[runner.py:" in line for line in others), others
    assert ended.stderr == ""
