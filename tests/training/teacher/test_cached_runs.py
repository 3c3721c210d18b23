"""A run that fills a teacher cache, and runs that read it, take the steps of a run with the teacher in an engine."""

import math
import os
import shutil

import pytest
import torch

from caad_ds.distill.teacher_cache import cached_signals, segments
from caad_ds.distill.teacher_signal import OnlineTeacher
from caad_ds.models.model_hashes import model_hash
from caad_ds.training import trainer as trainer_module
from caad_ds.training.teacher import cache as cache_module
from tests.training.teacher.in_process import batch_dependent, filled, rows_of, same_weights, trained, with_cache

pytestmark = pytest.mark.usefixtures("alone")

NEAR = 1e-6
WHOLE = "whole ("
NOT_LOADED = "it is not loaded"


@pytest.fixture
def place_matters(monkeypatch):
    """States that depend on the batch, far beyond rounding."""
    monkeypatch.setattr(OnlineTeacher, "signal", OnlineTeacher.signal)
    batch_dependent()


def assert_near(found: list[tuple[float, float]], expected: list[tuple[float, float]], near: float = NEAR) -> None:
    assert len(found) == len(expected) > 5
    for a, b in zip(found, expected, strict=True):
        assert math.isclose(a[0], b[0], rel_tol=near, abs_tol=1e-9) and math.isclose(a[1], b[1], rel_tol=near), (a, b)


def three(world, tmp_path, **changes):
    """An online run, one that fills a cache, one that reads it."""
    online = trained(with_cache(world, tmp_path / "online", None, **changes))
    filling = trained(with_cache(world, tmp_path / "filling", tmp_path / "cache", **changes))
    cached = trained(with_cache(world, tmp_path / "cached", tmp_path / "cache", **changes))
    assert WHOLE in filling.said and NOT_LOADED not in filling.said and filling.trainer.teacher is not None
    assert NOT_LOADED in cached.said and cached.trainer.teacher is None
    return online, filling, cached


CASES = {
    "20 steps": {"optimizer": {"steps": 20}},
    "contrast": {"cache": {"form": "contrast"}, "optimizer": {"steps": 8}},
    "standard KD, contrast": {"cache": {"form": "contrast"}, "objective": {"alpha": 0.0}},
    "plausibility": {"objective": {"plausibility": 0.1}},
    "text_only": {"teacher": {"negative": "text_only"}},
    "shuffled": {"teacher": {"negative": "shuffled"}},
    "an epoch ends inside a step": {"optimizer": {"batch_size": 10, "steps": 6}},
    "a sample twice in a step": {"optimizer": {"batch_size": 32, "steps": 6}},
    "accumulation": {"optimizer": {"micro_batch": 2, "steps": 6}, "teacher": {"batch": 2}},
    "group_by_audio": {"data": {"group_by_audio": True}},
    "token budget": {"optimizer": {"batch_size": None, "batch_tokens": 240, "micro_tokens": 120, "steps": 12}},
    "gate, contrast": {"cache": {"form": "contrast"}, "objective": {"alpha_gate": "text_certainty"}},
    "gate": {"objective": {"alpha_gate": "text_certainty"}},
    "row weights": {"objective": {"row_weight": "audio_advantage"}, "optimizer": {"micro_batch": 2, "steps": 6}},
    "row weights, contrast": {"cache": {"form": "contrast"}, "objective": {"row_weight": "audio_advantage"}},
    "row weights, standard KD": {"objective": {"row_weight": "audio_advantage", "alpha": 0.0}},
}
QUICK = {"20 steps", "contrast", "a sample twice in a step", "accumulation"}


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_filling_and_cached_runs_take_the_steps_of_an_online_one(world, tmp_path, case):
    online, filling, cached = three(world, tmp_path, **CASES[case])
    near = 1e-4 if "contrast" in case else NEAR  # of a contrast the hidden states are rounded before the head
    assert_near(filling.losses, online.losses, near)
    assert_near(cached.losses, online.losses, near)
    assert same_weights(tmp_path / "filling", tmp_path / "cached")


def test_one_cache_for_any_alpha(world, tmp_path):
    """Standard KD fills the cache; CAAD reads the same states as it would compute."""
    cache = tmp_path / "cache"
    trained(with_cache(world, tmp_path / "kd", cache, objective={"alpha": 0.0}))
    plain = trained(with_cache(world, tmp_path / "plain", None, objective={"alpha": 0.0}))
    for alpha in (0.0, 2.0):
        out = f"alpha-{alpha}"
        cached = trained(with_cache(world, tmp_path / out, cache, objective={"alpha": alpha}))
        online = trained(with_cache(world, tmp_path / f"online-{alpha}", None, objective={"alpha": alpha}))
        assert NOT_LOADED in cached.said
        assert_near(cached.losses, online.losses)
    assert plain.losses != cached.losses


def test_no_weights_of_the_teacher_are_read(world, tmp_path, monkeypatch):
    """Not even to hash them, unless a file of the teacher has changed since the cache was filled."""
    teacher = shutil.copytree(world / "teacher", tmp_path / "teacher")
    changes = {"optimizer": {"steps": 3}, "teacher": {"path": str(teacher)}}
    trained(with_cache(world, tmp_path / "filling", tmp_path / "cache", **changes))
    hashed = []

    def noted(folder):
        hashed.append(folder)
        return model_hash(folder)

    monkeypatch.setattr(cache_module, "model_hash", noted)
    assert NOT_LOADED in trained(with_cache(world, tmp_path / "cached", tmp_path / "cache", **changes)).said
    assert hashed == []
    os.chmod(teacher / "model.safetensors", 0o600)  # another time of change, the same bytes
    assert NOT_LOADED in trained(with_cache(world, tmp_path / "again", tmp_path / "cache", **changes)).said
    assert hashed == [str(teacher)]
    filled(with_cache(world, tmp_path / "fills", tmp_path / "cache", **changes))  # notes the files as they are now
    hashed.clear()
    assert NOT_LOADED in trained(with_cache(world, tmp_path / "last", tmp_path / "cache", **changes)).said
    assert hashed == []


def test_bf16_rows_are_the_online_ones_of_an_equal_batch(world, tmp_path, monkeypatch):
    kept: list[torch.Tensor] = []
    signal = OnlineTeacher.signal

    def noted(self, batch, negative):
        kept.extend(signal(self, batch, negative))
        return kept[-2], kept[-1]

    read = []
    used = cached_signals.used

    def watched(stored, head, objective):
        read.append((stored.positive, stored.negative))
        return used(stored, head, objective)

    monkeypatch.setattr(OnlineTeacher, "signal", noted)
    changes = {"run": {"precision": "bf16"}, "optimizer": {"steps": 3}}
    trained(with_cache(world, tmp_path / "a", tmp_path / "cache", **changes))
    monkeypatch.setattr(cached_signals, "used", watched)
    trained(with_cache(world, tmp_path / "b", tmp_path / "cache", **changes))
    found = [tensor for pair in read for tensor in pair]
    assert len(found) == len(kept) == 6 and all(tensor.dtype == torch.bfloat16 for tensor in found)
    assert all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))
    assert same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("every", [1, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "size", [32, pytest.param(10, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_run_that_is_killed_while_it_fills_ends_as_one_that_is_not(world, tmp_path, place_matters, size, every):
    """With samples that come twice in a step: either time they have the rows of the first."""
    changes = {"optimizer": {"steps": 4, "batch_size": size}, "checkpoint": {"every": every}}
    trained(with_cache(world, tmp_path / "whole", tmp_path / "a", **changes))
    file = with_cache(world, tmp_path / "killed", tmp_path / "b", **changes)
    for step in (1, 2, 3):
        assert trained(file, step=step).killed
    trained(file)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def test_repeated_samples_over_segments(world, tmp_path, place_matters, monkeypatch):
    """Repeated samples are read from a complete segment and from an open one."""
    changes = {"optimizer": {"steps": 3, "batch_size": 40, "micro_batch": 4}, "teacher": {"batch": 1}}
    trained(with_cache(world, tmp_path / "a", tmp_path / "one", **changes))
    monkeypatch.setattr(cached_signals, "SEGMENT_BYTES", 3000)
    trained(with_cache(world, tmp_path / "b", tmp_path / "many", **changes))
    assert len(segments.read_segments(tmp_path / "one")) == 1 < len(segments.read_segments(tmp_path / "many"))
    cached = trained(with_cache(world, tmp_path / "c", tmp_path / "many", **changes))
    assert NOT_LOADED in cached.said
    assert same_weights(tmp_path / "a", tmp_path / "b") and same_weights(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("same", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["the same", "others"])
def test_validation_is_stored_too(world, tmp_path, place_matters, same, request):
    shards = world / "shards"
    if not same:
        shards = tmp_path / "others"
        request.getfixturevalue("others")(shards)
    changes = {
        "data": {"validation": str(shards)}, "validation": {"every": 2}, "optimizer": {"steps": 5},
        "checkpoint": {"every": 3},
    }  # fmt: skip
    first = trained(with_cache(world, tmp_path / "first", tmp_path / "a", **changes))
    assert len(rows_of(tmp_path / "a")) == (24 if same else 30) and WHOLE in first.said
    killed = with_cache(world, tmp_path / "killed", tmp_path / "b", **changes)
    assert trained(killed, step=2).killed and trained(killed, step=4).killed
    again = trained(killed)
    cached = trained(with_cache(world, tmp_path / "cached", tmp_path / "a", **changes))
    assert NOT_LOADED in cached.said
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert same_weights(tmp_path / "first", tmp_path / "killed")
    assert same_weights(tmp_path / "first", tmp_path / "cached")

    def validated(run) -> list[str]:
        return [line for line in run.said.splitlines() if line.startswith("validation: ")]

    assert len(validated(first)) == 3 and validated(first)[-1] == validated(again)[-1] == validated(cached)[-1]


def test_a_step_without_a_finite_loss(world, tmp_path, monkeypatch):
    """The samples of the batch are evaluated one by one, filling and cached."""
    forward = trainer_module.DistillStep._student

    def spoilt(self, signals, normalizer, drawn=None):
        loss, kd, ce, diagnostics = forward(self, signals, normalizer, drawn)
        batch = signals[0]
        answered = {batch.keys[row] for row in batch.sample_of_row.tolist()}
        if "clip-03" in answered:
            return loss + float("inf"), kd, ce + float("inf"), diagnostics
        return loss, kd, ce, diagnostics

    monkeypatch.setattr(trainer_module.DistillStep, "_student", spoilt)
    changes = {"optimizer": {"steps": 4, "max_skipped": 3}}
    for name in ("filling", "cached"):
        run = trained(with_cache(world, tmp_path / name, tmp_path / "cache", **changes))
        skipped = [line for line in run.said.splitlines() if "skipped: " in line]
        assert skipped and all("the loss is not finite of clip-03 (" in line for line in skipped), run.said
    assert NOT_LOADED in run.said
    assert same_weights(tmp_path / "filling", tmp_path / "cached")


def test_a_stream_fills_a_cache_and_reads_it_by_key(world, tmp_path):
    """The missing samples of a stream are unknown: the teacher is loaded unless the config disables filling."""
    shard = min((world / "shards").glob("*.tar"))
    changes = {"data": {"reader": "stream", "train": str(shard)}, "optimizer": {"steps": 6}}
    filling = trained(with_cache(world, tmp_path / "filling", tmp_path / "cache", **changes))
    again = trained(with_cache(world, tmp_path / "again", tmp_path / "cache", **changes))
    cached = trained(with_cache(world, tmp_path / "cached", tmp_path / "cache", cache={"fill": False}, **changes))
    assert again.trainer.teacher is not None and NOT_LOADED in cached.said
    assert filling.losses == again.losses == cached.losses and len(cached.losses) == 6
    assert same_weights(tmp_path / "filling", tmp_path / "cached")
