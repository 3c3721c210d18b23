"""Damaged rows of a cache: named and computed again where the teacher is loaded, by a training or by cache-teacher."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.distill.teacher_cache import cached_signals
from caad_ds.distill.teacher_cache.cache_store import Store
from caad_ds.distill.teacher_cache.row_layout import Layout
from caad_ds.distill.teacher_cache.segments import SegmentWriter, drop_entries
from caad_ds.utils.errors import UserError
from tests.training.launching import Run
from tests.training.teacher.in_process import Killed, filled, rows_of, trained, with_cache
from tests.training.teacher.kills import WAIT
from tests.training.teacher.mistakes import flip

# In forwards of one sample, states have the same rounding whenever they are computed.
ONE = {"optimizer": {"steps": 6, "batch_size": 4, "micro_batch": 1}, "teacher": {"batch": 1}}


@pytest.fixture(scope="module")
def filled_cache(world, alone, tmp_path_factory) -> Path:
    """A cache that `cache-teacher` has filled, not to be changed."""
    root = tmp_path_factory.mktemp("filled")
    filled(with_cache(world, root / "out", root / "cache", **ONE), batch=1)
    return root / "cache"


@pytest.fixture
def cache(filled_cache, tmp_path) -> Path:
    """A copy with two damaged samples."""
    folder = shutil.copytree(filled_cache, tmp_path / "cache")
    rows = min(folder.glob("*.rows"))
    flip(rows, 3)
    flip(rows, -3)
    return folder


def damaged_keys(cache: Path) -> list[str]:
    """Keys of the first and the last sample of the first segment, which the fixture damages."""
    samples = json.loads(min(cache.glob("*.json")).read_text())["samples"]
    return [samples[0][0], samples[-1][0]]


def all_sound(cache: Path) -> bool:
    """Whether every stored content has the bytes that its index says."""
    store = Store(cache, Layout("pair", 32, "fp32"))
    try:
        return all(store.is_sound(content, entry.rows) for content, (_, entry) in store._locations.items())
    finally:
        store.close()


def test_cache_teacher_computes_them_again(world, alone, filled_cache, cache, tmp_path):
    keys = damaged_keys(cache)
    file = with_cache(world, tmp_path / "out", cache, **ONE)
    said = filled(file, batch=1)
    for key in keys:
        assert said.count(f"sample {key}: its rows are damaged (its bytes have another sha256); the teacher") == 1
    assert "2 samples computed; 24 samples" in said
    assert rows_of(cache) == rows_of(filled_cache) and all_sound(cache)
    assert "0 samples computed" in filled(file, batch=1)
    assert "it is not loaded" in trained(file).said


@pytest.fixture
def half(world, cache, others, tmp_path):
    """Write a config of a training that fills the damaged cache with the rows of validation data."""
    validation = str(others(tmp_path / "others"))

    def half(name: str, **changes: dict) -> Path:
        more = {"data": {"validation": validation}, "validation": {"every": 3}}
        return with_cache(world, tmp_path / name, cache, **(ONE | more | changes))

    return half


def test_a_training_that_fills_the_cache_computes_them_again(alone, filled_cache, cache, half, tmp_path):
    keys, before = damaged_keys(cache), rows_of(filled_cache)
    run = trained(half("out"))
    for key in keys:
        assert run.said.count(f"sample {key}: its rows are damaged") == 1
    assert "whole (" in run.said and all_sound(cache)
    assert before.items() < rows_of(cache).items()
    cached = trained(half("cached"))
    assert "it is not loaded" in cached.said and cached.losses == run.losses


def test_killed_before_the_new_rows_are_stored_they_are_missing(alone, cache, half):
    def drop_and_die(folder: Path, contents: dict) -> None:
        drop_entries(folder, contents)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached_signals, "drop_entries", drop_and_die)
        assert trained(half("out")).killed
    assert len(rows_of(cache)) == 23
    assert "whole (" in trained(half("out")).said
    assert len(rows_of(cache)) == 30 and all_sound(cache)


def test_two_ranks_compute_what_either_has_found(cache, half):
    keys = damaged_keys(cache)
    run = Run(half("out"), 2)
    assert run.wait(WAIT) == [0, 0], run.output()
    for key in keys:
        assert run.output().count(f"sample {key}: its rows are damaged") == 1
    assert "whole (" in run.output() and all_sound(cache)


@pytest.fixture
def filling(cache):
    """A teacher that fills the damaged cache and has found the first damaged sample; what it says is in `said`."""
    store = Store(cache, Layout("pair", 32, "fp32"))
    [first, *_] = damaged_keys(cache)
    [(content, rows)] = [(name, entry.rows) for name, (_, entry) in store._locations.items() if entry.key == first]
    assert not store.is_sound(content, rows) and store.lacks([(first, "")]) == []
    writer, objective, said = SegmentWriter(cache, "writer"), ObjectiveSection(), []
    teacher = cached_signals.FillingTeacher(None, store, writer, objective, None, True, said.append)
    teacher.said = said
    return teacher


def test_damage_that_is_noted_before_rows_are_published_counts_as_missing(filling, cache):
    """A run that then looks whether its cache is whole finds that it is not."""
    [first, *_] = damaged_keys(cache)
    filling.publish()
    assert filling.store.lacks([(first, "")]) == [first] and len(rows_of(cache)) == 23
    [line] = filling.said
    assert f"sample {first}: its rows are damaged" in line


def test_an_error_that_nobody_foresaw_ends_the_run_when_all_ranks_know(filling, monkeypatch):
    """Raised at once, it would leave the others waiting."""

    def broken(folder, contents):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(cached_signals, "drop_entries", broken)
    filling._forget_damaged(filling.store.take_damaged())
    with pytest.raises(OSError, match="Input/output error"):
        filling.publish()


@pytest.mark.parametrize("when", ["stop", "continue"])
def test_a_disk_that_is_full_when_they_are_removed_from_the_index(alone, cache, half, monkeypatch, when):
    def full(folder, contents):
        raise UserError(f"no space left for {folder}")

    monkeypatch.setattr(cached_signals, "drop_entries", full)
    file = half("out", cache={"when_full": when})
    if when == "stop":
        with pytest.raises(UserError, match="no space left for"):
            trained(file)
        return
    assert "training continues without filling it" in trained(file).said


def test_rows_that_the_file_system_does_not_deliver_are_kept(alone, cache, half, monkeypatch):
    before = rows_of(cache)

    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("os.preadv", broken)
    with pytest.raises(UserError, match="its rows cannot be read"):
        trained(half("out"))
    assert rows_of(cache) == before
