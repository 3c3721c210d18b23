"""Handling of checkpoints that are damaged, of another run, not the newest, or of an earlier version."""

import json
import shutil

import pytest
import yaml
from pydantic import create_model

from caad_ds.config import reading
from caad_ds.config.schema import Config, OptimizerSection
from caad_ds.training import run_identity
from caad_ds.training.checkpoints.checkpoint import verify
from tests.training.launching import Run, refusal, train
from tests.training.tiny import config

OFF = {"tracking": {"enabled": False}}


@pytest.fixture(scope="module")
def checkpointed(world, tmp_path_factory):
    """The config of a run that has checkpoints of steps 2 and 4 and no model yet."""
    out = tmp_path_factory.mktemp("checkpointed") / "out"
    file = config(world, out, optimizer={"steps": 4}, checkpoint={"every": 2}, **OFF)
    train(file)
    shutil.rmtree(out / "model")
    return file


@pytest.fixture
def resumable(checkpointed, tmp_path):
    """A copy of that run, to spoil."""
    shutil.copytree(checkpointed.with_suffix(""), tmp_path / "out")
    values = yaml.safe_load(checkpointed.read_text())
    values["run"]["output_dir"] = str(tmp_path / "out")
    file = tmp_path / "out.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_a_run_begun_with_another_config_names_what_changed(resumable):
    line = refusal(resumable, "--set", "objective.alpha=0.5", "--set", "run.seed=3")
    assert "was begun with another config (objective.alpha 1.0 -> 0.5, run.seed 0 -> 3); use another" in line
    assert f"`caad-ds export {resumable.with_suffix('')} --out DIR`" in line


def test_a_checkpoint_of_other_weights_or_data(resumable):
    state = resumable.with_suffix("") / "checkpoints/step-00000004/state.json"
    recorded = json.loads(state.read_text())
    now, since_replaced = recorded["state"]["identity"]["teacher"], "0123456789abcdef"
    recorded["state"]["identity"]["teacher"] = since_replaced
    state.write_text(json.dumps(recorded))
    line = refusal(resumable)
    changed = f"differ from this checkpoint's (teacher, hash {since_replaced} -> {now}); restore them, use another"
    assert "step-00000004: teacher, student, data or settings " + changed in line


def damage(path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "trainable.safetensors",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("random-0.pt", "deepspeed/*optim*", "state.json")),
        "missing",
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_replaced(resumable, name):
    checkpoints = resumable.with_suffix("") / "checkpoints"
    newest, before = checkpoints / "step-00000004", checkpoints / "step-00000002"
    path = newest / "random-0.pt" if name == "missing" else next(newest.glob(name))
    if name == "missing":
        path.unlink()
    elif name == "state.json":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        damage(path)
    said = train(resumable)
    [line] = [line for line in said.splitlines() if line.endswith("; trying step-00000002")]
    assert line.startswith(f"{path}: damaged")
    assert f"resumed from {before} at step 2" in said and "step 3/4" in said
    assert verify(newest).step == 4  # written again


def test_a_damaged_file_that_one_of_two_ranks_finds(world, tmp_path):
    file = config(world, tmp_path / "out", optimizer={"steps": 4}, checkpoint={"every": 2}, **OFF)
    train(file, 2)
    damage(tmp_path / "out/checkpoints/step-00000004/random-1.pt")
    said = train(file, 2)
    assert "random-1.pt: damaged or missing (rank " in said and "at step 2" in said


def test_no_checkpoint_is_whole(resumable):
    checkpoints = resumable.with_suffix("") / "checkpoints"
    for folder in checkpoints.glob("step-*"):
        damage(folder / "trainable.safetensors")
    line = refusal(resumable)
    assert f"{checkpoints / 'step-00000004/trainable.safetensors'}: damaged" in line
    assert f"no older checkpoint is whole: remove {checkpoints} to start over" in line


def test_a_pointer_to_nothing_and_none(resumable):
    pointer = resumable.with_suffix("") / "checkpoints/latest"
    pointer.write_text("step-00000003")
    said = train(resumable)
    assert "step-00000003/state.json: damaged or missing" in said and "at step 2" in said
    pointer.unlink()
    assert "already finished at step 4" in train(resumable)


def test_a_user_goes_back_to_an_older_checkpoint(resumable):
    (resumable.with_suffix("") / "checkpoints/latest").write_text("step-00000002\n")
    assert "at step 2" in train(resumable)


def add_a_key() -> None:
    """As a later version of the schema would."""
    optimizer = create_model("Optimizer", __base__=OptimizerSection, added=(float, 0.5))
    reading.Config = create_model("Later", __base__=Config, optimizer=(optimizer, ...))  # type: ignore[misc]


@pytest.mark.parametrize("versioned", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_checkpoint_resumes_after_the_schema_has_got_another_key(resumable, versioned):
    folder = resumable.with_suffix("") / "checkpoints/step-00000004"
    state = folder / "state.json"
    recorded = json.loads(state.read_text())
    if not versioned:  # as it was written before there was a version
        course = reading.load_config(resumable).model_dump(mode="json", include=run_identity.COURSE)
        settings = run_identity.part_hash(run_identity.unversioned_settings(course))
        recorded["state"]["identity"] = {**recorded["state"]["identity"], "settings": settings}
        del recorded["state"]["identity"]["version"]
        state.write_text(json.dumps(recorded))
    run = Run(resumable, 1, prepare=add_a_key)
    assert run.wait() == [0] and f"resumed from {folder} at step 4" in run.output()
