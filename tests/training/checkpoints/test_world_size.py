"""A run that continues with another number of ranks: the same batches, the same curve to fp32 rounding."""

import json
import shutil

import pytest
import torch
import yaml

from tests.training.alike import assert_same_bf16_values, assert_same_curves, assert_same_weights
from tests.training.launching import curve, train, weights
from tests.training.tiny import ZERO3, config

STEPS, AT = 9, 4
# Sub-groups as a large model has them: each counts AdamW's steps by itself.
STAGES = {2: {"stage": 2}, 3: ZERO3 | {"sub_group_size": 3000}}
STAGES["host"] = STAGES[3] | {"offload_optimizer": {"device": "cpu"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all runs go, with one MLflow store; a name that DeepSpeed's conversion would read as a pattern."""
    made = tmp_path_factory.mktemp("lr=1e+2[a](b)")
    for stage, settings in STAGES.items():
        (made / f"{stage}.json").write_text(json.dumps({"zero_optimization": settings}))
    return made


def undisturbed(world, folder, name: str, ranks: int, precision: str = "fp32", **student):
    """The output of a run to its end, with checkpoints of steps 4, 8 and 9."""
    out = folder / name
    changes = {"run": {"precision": precision}, "optimizer": {"steps": STEPS}}
    train(config(world, out, student=student, checkpoint={"every": AT, "keep": 3}, **changes), ranks)
    return out


def go_on(out, ranks: int):
    """Resume a copy of a run from its first checkpoint; returns the copy's output folder and the log."""
    copy = out.with_name(f"{out.name}-resumed")
    shutil.copytree(out / "checkpoints", copy / "checkpoints")
    shutil.copy(out / "config.yaml", copy)
    first = copy / f"checkpoints/step-{AT:08d}"
    (copy / "checkpoints/latest").write_text(first.name)
    recorded = json.loads((first / "state.json").read_text())
    recorded["state"]["tracking_id"] = None  # curves of its own
    (first / "state.json").write_text(json.dumps(recorded))
    values = yaml.safe_load(out.with_suffix(".yaml").read_text())
    values["run"]["output_dir"] = str(copy)
    file = copy.with_name(f"{copy.name}.yaml")
    file.write_text(yaml.safe_dump(values))
    return copy, train(file, ranks)


@pytest.mark.parametrize(
    ("stage", "which", "before", "after"),
    [
        (3, "all", 2, 1),
        pytest.param(2, "connector", 1, 2, marks=pytest.mark.slow),
        pytest.param(3, "connector", 1, 2, marks=pytest.mark.slow),
        pytest.param(2, "all", 2, 1, marks=pytest.mark.slow),
        pytest.param("host", "all", 1, 2, marks=pytest.mark.slow),
    ],
)
def test_the_curve_goes_on_with_another_number_of_ranks(world, folder, terms, stage, which, before, after):
    student = {"deepspeed": str(folder / f"{stage}.json"), "train": which}
    whole = undisturbed(world, folder, f"zero{stage}-{which}", before, **student)
    resumed, said = go_on(whole, after)
    assert f"converting step-{AT:08d} of {before} ranks for {after}" in said and f"at step {AT}" in said
    assert [step for step, _ in curve(resumed, "train/kd")] == list(range(AT + 1, STEPS + 1))
    assert_same_curves(resumed, whole, terms, after=AT)
    assert_same_weights(resumed, whole, terms, STEPS)
    kept = sorted(path.name for path in (resumed / "checkpoints").iterdir())
    assert kept == ["latest", *(f"step-{step:08d}" for step in (AT, 2 * AT, STEPS))]  # nothing of the conversion
    state = json.loads((resumed / f"checkpoints/step-{STEPS:08d}/state.json").read_text())["state"]
    assert state["world_size"] == after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "before", "after"), [("student_24gb.json", 1, 2), ("student_zero3_cpu_optimizer.json", 2, 1)]
)
def test_it_does_so_in_bf16_as_far_as_that_rounds(world, folder, file, before, after):
    whole = undisturbed(world, folder, f"bf16-{file}", before, "bf16", deepspeed=file)
    resumed, said = go_on(whole, after)
    assert f"converting step-{AT:08d} of {before} ranks for {after}" in said
    expected, got = (curve(out, "train/ce") for out in (whole, resumed))
    assert [step for step, _ in got] == list(range(AT + 1, STEPS + 1))
    assert_same_bf16_values([value for _, value in got], [value for _, value in expected[AT:]])


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("file", "precision"),
    [
        ("student_24gb.json", "bf16"),
        pytest.param("student_zero3_cpu_optimizer.json", "fp32", marks=pytest.mark.slow),
    ],
)
def test_an_optimizer_in_host_memory_goes_on_bit_for_bit(world, folder, file, precision):
    """Whose bias correction must be that of the steps in its state, however these were counted before."""
    whole = undisturbed(world, folder, f"equal-{file}", 1, precision, deepspeed=file)
    resumed, said = go_on(whole, 1)
    assert f"at step {AT}" in said
    for metric in ("train/kd", "train/ce", "train/grad_norm"):
        assert curve(resumed, metric) == curve(whole, metric)[AT:]
    a, b = weights(whole), weights(resumed)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
