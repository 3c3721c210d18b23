"""A step whose loss or gradient is not finite is skipped on all ranks and named; too many in a row stop the run."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from caad_ds.config.reading import load_config
from caad_ds.data.sampler import GlobalOrder
from caad_ds.data.shard_index import ShardIndex
from caad_ds.training.checkpoints.checkpoint import verify
from caad_ds.training.checks.skipped_steps import Skips
from caad_ds.training.engines import load_student
from caad_ds.training.export.model_folder import write_model
from caad_ds.utils.errors import UserError
from tests.training.alike import assert_same_curves, assert_same_weights
from tests.training.checks.poison import poison
from tests.training.launching import Run, curve, refusal, weights
from tests.training.tiny import ce, config

STEPS, BATCH, BAD = 6, 8, "clip-11"


def run(file: Path, poisoned: str, ranks: int = 2, status: int = 0) -> str:
    """Train on poisoned data; what rank 0 printed."""
    started = Run(file, ranks, env={"POISON": poisoned}, prepare=poison)
    assert started.wait() == [status] * ranks, "\n".join(started.output(rank) for rank in range(ranks))
    return started.output()


def steps_of(world: Path, key: str, steps: int = STEPS) -> list[int]:
    """The steps, from 1 on, whose batch holds a sample."""
    keys = [entry.key for entry in ShardIndex.load(world / "shards").samples]
    order = GlobalOrder(len(keys), BATCH, 0)
    return [step + 1 for step in range(steps) if keys.index(key) in order.batch(step)]


def skipped(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]


def checkpoint(out: Path, step: int) -> Path:
    return out / f"checkpoints/step-{step:08d}"


def tensors(value) -> list[torch.Tensor]:
    """All tensors in nested dicts and lists."""
    if torch.is_tensor(value):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for part in parts for tensor in tensors(part)]


def optimizer(folder: Path) -> list[torch.Tensor]:
    """The tensors of DeepSpeed's optimizer shards: float32 weights, moments, AdamW's counts of its steps."""
    return [
        tensor
        for path in sorted((folder / "deepspeed").glob("*optim_states.pt"))
        for tensor in tensors(torch.load(path, weights_only=False))
    ]


def all_finite(values) -> bool:
    return all(value.isfinite().all() for value in values if value.is_floating_point())


@pytest.fixture(scope="module")
def once_bad(world, tmp_path_factory):
    """Two ranks, two micro-batches each; one sample's audio is NaN."""
    out = tmp_path_factory.mktemp("nan") / "out"
    every = {"checkpoint": {"every": 1, "keep": 99}}
    printed = run(config(world, out, optimizer={"steps": STEPS, "micro_batch": 2}, **every), f"nan:{BAD}")
    return out, printed


def test_a_bad_sample_is_named_and_its_steps_are_skipped(world, once_bad):
    out, printed = once_bad
    bad = steps_of(world, BAD)
    assert len(bad) == 2 and 1 < min(bad) < max(bad) < STEPS
    assert [(record["step"], record["not_finite"]) for record in skipped(out)] == [(step, "loss") for step in bad]
    for record in skipped(out):
        assert [sample["id"] for sample in record["samples"]] == [BAD] and record["batch"] == BATCH
    assert printed.count(f"skipped: the loss is not finite of {BAD} (") == 2 and "finished" in printed
    counts = dict(curve(out, "train/skipped_steps"))
    assert counts == {step: float(sum(each <= step for each in bad)) for step in range(1, STEPS + 1)}
    for metric in ("train/kd", "train/ce", "train/grad_norm"):
        points = curve(out, metric)
        assert [step for step, _ in points] == [step for step in range(1, STEPS + 1) if step not in bad]
        assert all(math.isfinite(value) for _, value in points)


def test_a_skipped_step_changes_neither_weights_nor_optimizer(world, once_bad):
    out, _ = once_bad
    bad = steps_of(world, BAD)
    for step in range(2, STEPS + 1):
        before, after = checkpoint(out, step - 1), checkpoint(out, step)
        pairs = [*zip(optimizer(before), optimizer(after), strict=True)]
        a, b = load_file(before / "trainable.safetensors"), load_file(after / "trainable.safetensors")
        pairs += [(a[name], b[name]) for name in a]
        assert all(torch.equal(x, y) for x, y in pairs) == (step in bad), step
        assert all_finite(y for _, y in pairs)
    assert all_finite(weights(out).values())


def test_a_run_resumed_after_a_skip_ends_as_the_undisturbed_one(world, once_bad):
    whole, _ = once_bad
    bad = steps_of(world, BAD)[0]
    out = whole.with_name("resumed")
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("model", "config.yaml", *later(bad)))
    (out / "checkpoints/latest").write_text(checkpoint(out, bad).name)
    assert verify(checkpoint(out, bad)).skipped_in_row == 1
    file = config(
        world,
        out,
        optimizer={"steps": STEPS, "micro_batch": 2},
        checkpoint={"every": 1, "keep": 99},
        tracking={"enabled": False},
    )
    assert f"at step {bad}" in run(file, f"nan:{BAD}")
    a, b = weights(whole), weights(out)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert skipped(out) == skipped(whole)
    counts = [(verify(checkpoint(o, STEPS)).skipped, verify(checkpoint(o, STEPS)).skipped_in_row) for o in (whole, out)]
    assert counts[0] == counts[1] == (2, 0)


def later(step: int) -> list[str]:
    return [f"step-{n:08d}" for n in range(step + 1, STEPS + 1)]


def test_the_same_steps_are_skipped_on_another_number_of_ranks(world, terms, once_bad):
    whole, _ = once_bad
    out = whole.with_name("alone")
    run(config(world, out, optimizer={"steps": STEPS}), f"nan:{BAD}", 1)
    for a, b in zip(skipped(whole), skipped(out), strict=True):
        assert (a["step"], [s["id"] for s in a["samples"]]) == (b["step"], [s["id"] for s in b["samples"]])
    assert_same_curves(out, whole, terms)
    assert_same_weights(out, whole, terms, STEPS)


VARIANTS = {
    "inf, fp32": ("inf", {}),
    "inf, bf16": ("inf", {"run": {"precision": "bf16"}}),
    "gradient, bf16, ZeRO-2, optimizer offloaded": (
        "gradient", {"run": {"precision": "bf16"}, "student": {"deepspeed": "student_24gb.json"}},
    ),
    "infinite loss of a finite gradient, ZeRO-2": ("loss", {"student": {"deepspeed": "student_zero2.json"}}),
}  # fmt: skip
FAST = ("gradient, bf16, ZeRO-2, optimizer offloaded",)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in VARIANTS]
)
def test_whatever_is_not_finite_is_skipped(world, tmp_path, variant):
    kind, changes = VARIANTS[variant]
    out = tmp_path / "out"
    file = config(world, out, optimizer={"steps": STEPS, "micro_batch": 2}, tracking={"enabled": False}, **changes)
    printed = run(file, f"{kind}:{BAD}")
    records = skipped(out)
    assert [record["step"] for record in records] == steps_of(world, BAD) and "finished" in printed
    for record in records:
        names = [sample["id"] for sample in record["samples"]]
        assert record["not_finite"] == ("gradient" if kind == "gradient" else "loss")
        assert (BAD in names and len(names) == BATCH) if kind == "gradient" else names == [BAD]
    assert all_finite(weights(out).values())


DROPPED = {"audio_dropout": 0.999, "dropout_negative": "text_only"}


@pytest.mark.parametrize("zero", ["student.json", pytest.param("0", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "what"), [("loss", "loss"), ("nan", "audio")])
def test_what_is_not_finite_is_noticed_and_named_where_no_sample_hears_its_audio(world, tmp_path, kind, what, zero):
    """The connector alone trains, and no token is its output: no gradient that is not 0 leads from the loss to it."""
    file = world / zero
    if zero == "0":
        file = tmp_path / "zero.json"
        file.write_text('{"zero_optimization": {"stage": 0}}')
    out = tmp_path / "out"
    printed = run(
        ce(
            world,
            out,
            student={"train": "connector", "deepspeed": str(file)},
            objective=DROPPED,
            optimizer={"steps": STEPS, "micro_batch": 2},
            tracking={"enabled": False},
        ),
        f"{kind}:{BAD}",
    )
    records = skipped(out)
    assert [record["step"] for record in records] == steps_of(world, BAD) and "finished" in printed
    for record in records:
        assert [sample["id"] for sample in record["samples"]] == [BAD] and record["not_finite"] == what


def stopped(out: Path, printed: str) -> tuple[dict, list[Path]]:
    """Check the one line of error and that checkpoints are complete and finite; returns diagnosis and checkpoints."""
    assert "Traceback" not in printed and "finished" not in printed and not (out / "model").exists()
    [line] = [line for line in printed.splitlines() if "error" in line.lower()]
    assert line.startswith("caad-ds: error: stopped after step ") and str(out / "not_finite.json") in line
    folders = sorted((out / "checkpoints").glob("step-*"))
    for folder in folders:
        verify(folder)
        assert all_finite(load_file(folder / "trainable.safetensors").values()) and all_finite(optimizer(folder))
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"latest", *(folder.name for folder in folders)}
    return json.loads((out / "not_finite.json").read_text()), folders


@pytest.mark.slow
def test_a_run_without_a_good_sample_stops_with_a_whole_checkpoint(world, tmp_path):
    out = tmp_path / "out"
    file = ce(world, out, optimizer={"steps": STEPS, "max_skipped": 3}, tracking={"enabled": False})
    found, folders = stopped(out, run(file, "nan:*", status=2))
    assert (found["step"], found["skipped_in_row"], found["last_good"]) == (3, 3, None)
    assert [record["step"] for record in found["row"]] == [1, 2, 3]
    assert all(len(record["samples"]) == record["batch"] == BATCH for record in found["row"])
    assert found["not_finite"] == {"student": [], "optimizer": []}
    assert [folder.name for folder in folders] == ["step-00000003"]
    found, folders = stopped(out, run(file, "nan:*", status=2))  # as the first time: the row goes on
    assert (found["step"], found["skipped_in_row"]) == (4, 4)


def test_a_learning_rate_that_ruins_the_weights_stops_the_run(world, tmp_path):
    """Its weights are finite after one step, about 1e30, and no loss is finite from then on."""
    out = tmp_path / "out"
    file = config(
        world,
        out,
        optimizer={"lr": 1e30, "steps": STEPS},
        checkpoint={"every": 1, "keep": 1},
        tracking={"enabled": False},
    )
    found, folders = stopped(out, run(file, "nan:nobody", 1, status=2))
    assert found["last_good"] == "step-00000001" and found["skipped_in_row"] == STEPS - 1  # all but the first
    assert [folder.name for folder in folders] == [f"step-{n:08d}" for n in range(1, STEPS + 1)]
    (out / "skipped.jsonl").unlink()
    found, _ = stopped(out, run(file, "nan:nobody", 1, status=2))  # no step is left to do
    assert (found["step"], found["skipped_in_row"]) == (STEPS, STEPS - 1)


@pytest.mark.parametrize("text", ['{"step": 1', '{"samples": []}', "7"])
def test_a_damaged_log_of_skipped_steps_is_named(tmp_path, text):
    (tmp_path / "skipped.jsonl").write_text(f"{text}\n")
    with pytest.raises(UserError, match=r"skipped.jsonl: damaged .*; remove it"):
        Skips(tmp_path, 3).restore(1, 1, 1)


def test_no_checkpoint_holds_a_state_that_is_not_finite(world, tmp_path):
    out = tmp_path / "out"
    file = config(world, out, optimizer={"steps": STEPS}, checkpoint={"every": 2}, tracking={"enabled": False})
    found, folders = stopped(out, run(file, "state:4", status=2))
    assert [folder.name for folder in folders] == ["step-00000002"] and found["last_good"] == "step-00000002"
    assert found["step"] == 4 and "the optimizer's exp_avg" in found["not_finite"]["optimizer"]


def test_no_model_folder_holds_a_weight_that_is_not_finite(world, tmp_path):
    """What a run's end and `caad-ds export` both write."""
    cfg = load_config(config(world, tmp_path / "out"))
    student = load_student(cfg)
    good = dict(student.named_parameters())
    write_model(tmp_path / "good", student, good, torch.float32)
    name = "connector.layer_weights"
    for value, dtype in ((math.nan, torch.float32), (math.inf, torch.float32), (3.4e38, torch.bfloat16)):
        spoilt = good[name].detach().clone()
        spoilt[0, 0] = value  # the last is finite until it is rounded to bfloat16
        with pytest.raises(UserError, match=f"bad is not written: {name} holds NaN or infinity"):
            write_model(tmp_path / "bad", student, good | {name: spoilt}, dtype)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["good"]


@pytest.mark.parametrize(
    ("name", "whose"),
    [("connector.layer_weights", ""), ("encoder.whisper.conv1.weight", ", its encoder")],
)
def test_a_teacher_with_a_weight_that_is_not_finite_is_refused_before_training(world, tmp_path, name, whose):
    broken = tmp_path / "teacher"
    shutil.copytree(world / "teacher", broken)
    file = broken / "model.safetensors"
    values = load_file(file)
    values[name].view(-1)[0] = math.nan
    save_file(values, file, metadata={"format": "pt"})
    line = refusal(config(world, tmp_path / "out", teacher={"path": str(broken)}, tracking={"enabled": False}))
    assert (
        f"teacher {broken}{whose}: " in line
        and f"{name.removeprefix('encoder.whisper.')} holds NaN or infinity" in line
    )


def test_a_validation_loss_that_is_not_finite_is_reported_and_is_never_the_best(world, tmp_path):
    out = tmp_path / "out"
    file = config(
        world,
        out,
        data={"validation": str(world / "shards")},
        optimizer={"steps": 1, "max_skipped": 5},
        validation={"batch_size": 2},
        checkpoint={"every": 1, "keep_best": 1},
        tracking={"enabled": False},
    )
    printed = run(file, f"inf:{BAD}", 1)
    assert "validation: kd nan" in printed or "validation: loss nan" in printed, printed
    assert f"validation: the loss is not finite in the batches of clip-10, {BAD}" in printed
    assert verify(checkpoint(out, 1)).validation.keys().isdisjoint({"loss", "kd", "ce"})
