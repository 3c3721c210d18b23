"""A cache that is not of this run, or is damaged: one line that names what, and nothing in the cache is changed."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from caad_ds.data.shard_index import ShardIndex
from caad_ds.distill.teacher_signal import OnlineTeacher
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import sole_writer
from data_prep.pack import pack
from tests.command import run_command
from tests.training.launching import Run
from tests.training.teacher.in_process import same_weights, trained, with_cache
from tests.training.teacher.mistakes import FORMS, STEPS, content, flip, other_template, other_weights
from tests.training.teacher.ranks import blind, soft_cap

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def cache(caches, tmp_path) -> Path:
    """A complete cache of form pair that tests may damage."""
    return shutil.copytree(caches / "pair", tmp_path / "cache")


@pytest.fixture
def refused(world, tmp_path):
    """What a run with a cache says as it is refused; the cache is as it was before."""

    def refused(folder: Path, **changes) -> str:
        before = content(folder)
        with pytest.raises(UserError) as caught:
            trained(with_cache(world, tmp_path / "out", folder, **(STEPS | changes)))
        assert content(folder) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": {"negative": "text_only"}}, "negative (teacher.negative): zero_mel, here text_only"),
        ({"teacher": {"transcript": "none"}}, "reading of samples (transcript): "),
        ({"data": {"max_answer_tokens": 4}}, "answer cut (data.max_answer_tokens): 300, here 4"),
        ({"run": {"precision": "bf16"}}, "run.precision: fp32, here bf16"),
        ({"run": {"encoder_precision": "bf16"}}, "run.encoder_precision: fp32, here bf16"),
        ({"run": {"attention": "eager"}}, "run.attention: sdpa, here eager"),
        ({"cache": {"form": "contrast"}}, "form (teacher.cache.form): pair, here contrast"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_cache_that_was_made_with_something_else(caches, refused, changes, said):
    line = refused(caches / "pair", **changes)
    assert line.startswith(f"teacher.cache.path {caches / 'pair'}: it was made with another ") and said in line
    assert line.count(", here ") == 1  # no settings that depend on the one that differs


def test_a_cache_of_another_teacher(world, caches, refused, tmp_path):
    line = refused(caches / "pair", **other_weights(world, tmp_path / "other"))
    assert "it was made with another teacher (its files): " in line


def test_a_teacher_whose_weights_were_overwritten(world, refused, tmp_path):
    """In the same file, at the same length, with the old time of modification."""
    own = shutil.copytree(world / "teacher", tmp_path / "own")
    changes = {"teacher": {"path": str(own)}}
    trained(with_cache(world, tmp_path / "filled", tmp_path / "cache", **(STEPS | changes)))
    file = own / "model.safetensors"
    state = file.stat()
    with file.open("r+b") as weights:
        weights.seek(-2, os.SEEK_END)
        weights.write(b"\x01")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_mtime_ns == state.st_mtime_ns and file.stat().st_ino == state.st_ino
    assert "it was made with another teacher (its files): " in refused(tmp_path / "cache", **changes)


@pytest.mark.parametrize("key", ["alpha", "alpha_gate"])
def test_another_contrast_than_the_stored_one(caches, refused, key):
    values = {
        "alpha": {"alpha": 0.5},
        "alpha_gate": {"alpha_gate": "text_certainty"},
    }
    line = refused(caches / "contrast", cache={"form": "contrast"}, objective=values[key])
    assert f"it was made with another objective.{key}: " in line


def test_another_constant_of_the_gate_than_the_stored_one(caches, refused):
    gated = FORMS["gated"]
    line = refused(caches / "gated", **gated | {"objective": gated["objective"] | {"gate_m": 3.0}})
    assert "it was made with another objective.gate_m: " in line


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_other_versions(caches, refused, monkeypatch, package):
    monkeypatch.setattr(f"{package}.__version__", "1.0")
    line = refused(caches / "pair")
    assert f"it was made with another version of {package}: " in line and line.count(", here ") == 1


def test_another_processor(world, caches, refused, tmp_path):
    other = shutil.copytree(world / "teacher", tmp_path / "other")
    file = other / "processor_config.json"
    file.write_text(file.read_text() + "\n")
    assert "it was made with another teacher (its files): " in refused(caches / "pair", teacher={"path": str(other)})


def test_another_template(world, caches, refused, tmp_path):
    line = refused(caches / "pair", **other_template(world, tmp_path / "other"))
    assert "it was made with another teacher (its files): " in line


def test_a_file_system_without_locks(refused, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert f"teacher.cache.path {tmp_path / 'cache'}: its file system has no file locks" in refused(tmp_path / "cache")


def test_a_contrast_and_plausibility(refused, tmp_path):
    line = refused(tmp_path / "none", cache={"form": "contrast"}, objective={"plausibility": 0.1})
    assert "teacher.cache.form contrast does not store; set it to pair" in line


def test_a_contrast_of_logits_with_a_soft_cap(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(OnlineTeacher, "head", OnlineTeacher.head)  # restored at the end
    soft_cap()
    line = refused(tmp_path / "none", cache={"form": "contrast"})
    assert "teacher.cache.form contrast: the logits of a caad_speech_lm have a soft cap" in line
    assert not (tmp_path / "none").exists()


def test_no_cache_and_none_to_be_filled(refused, tmp_path):
    line = refused(tmp_path / "none", cache={"fill": False})
    assert f"teacher.cache.path {tmp_path / 'none'}: there is no cache, and teacher.cache.fill is false" in line


def test_a_sample_without_rows_where_none_is_to_be_filled(cache, refused, others, tmp_path):
    line = refused(cache, cache={"fill": False}, data={"train": str(others(tmp_path / "others"))})
    assert "sample other-clip-0" in line and f"teacher.cache.path {cache} has no rows of it (it has none)" in line
    assert "nor of 5 others" in line and "caad-ds cache-teacher" in line


def test_a_sample_whose_text_has_changed(cache, refused, changed):
    line = refused(cache, data={"train": str(changed)})
    assert "sample clip-07" in line and "its text, audio or answer has changed since the cache was filled" in line


def test_partners_that_have_changed(world, refused, tmp_path):
    """Negative shuffled takes audio of other samples, which the same manifest packed by other rules has not."""
    shuffled = {"teacher": {"negative": "shuffled"}}
    trained(with_cache(world, tmp_path / "filled", tmp_path / "cache", **(STEPS | shuffled)))
    lengths = sorted(entry.seconds for entry in ShardIndex.load(world / "shards").samples)
    rule = ("--max-seconds", f"{sum(lengths[-2:]) / 2}")
    assert run_command(pack, "--manifest", world / "answered.jsonl", "--out", tmp_path / "shards", *rule) in (0, 1)
    line = refused(tmp_path / "cache", data={"train": str(tmp_path / "shards")}, **shuffled)
    assert "it was made with another data (its audio is the negative of other samples): " in line


def test_scalars_over_other_tokens(world, refused, tmp_path):
    """A half-filled cache with scalars for another vocabulary; once complete, it serves runs without scalars."""
    run = trained(with_cache(world, tmp_path / "out-half", tmp_path / "cache", **(STEPS | {"optimizer": {"steps": 1}})))
    assert "whole (" not in run.said
    path = tmp_path / "cache/cache.json"
    path.write_text(path.read_text().replace('"vocabulary of the scalars": "', '"vocabulary of the scalars": "other '))
    line = refused(tmp_path / "cache")
    assert "its scalars are over other tokens of the vocabulary (other " in line


@pytest.mark.parametrize("key", [{"row_weight": "audio_advantage"}, {"alpha_gate": "text_certainty"}], ids=str)
def test_scalars_over_other_tokens_of_a_whole_cache(cache, refused, key):
    path = cache / "cache.json"
    path.write_text(path.read_text().replace('"vocabulary of the scalars": "', '"vocabulary of the scalars": "other '))
    line = refused(cache, objective=key)
    assert f"its scalars, which objective.{next(iter(key))} needs, are over other tokens of the vocabulary" in line


def test_a_folder_that_one_rank_does_not_see(world, cache, tmp_path):
    """As a path that is local to each node."""
    run = Run(with_cache(world, tmp_path / "out", cache, **STEPS), 2, env={"BLIND": "1"}, prepare=blind)
    assert run.wait(60) == [2, 2], run.output()
    errors = [line for rank in range(2) for line in run.output(rank).splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and "use a folder that all nodes share" in errors[0], errors


def test_a_truncated_segment(cache, refused):
    rows = min(cache.glob("*.rows"))
    size = rows.stat().st_size
    os.truncate(rows, size - 1)
    line = refused(cache)
    assert f"{rows}: it has {size - 1} bytes, its index says {size}; run `caad-ds prep verify {cache}" in line


def test_a_flipped_byte_of_a_whole_cache(cache, refused):
    rows = min(cache.glob("*.rows"))
    flip(rows, 5)
    index = rows.with_suffix(".json")
    key = json.loads(index.read_text())["samples"][0][0]
    line = refused(cache)
    assert f"{rows}, sample {key}: its rows are damaged (its bytes have another sha256); compute them with" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no JSON object"),
        ("{}", "it is of version None, and this one reads 1"),
        ('{"version": 1, "made_of": []}', "it is of version 1"),
        ('{"version": 1, "made_of": {}}', "it lacks the width or the positions of the teacher"),
        ('{"version": 1, "made_of": {}, "width": "32", "positions": 3}', "it lacks the width or the positions"),
        ('{"version": 1, "made_of": {}, "width": 32, "positions": 3}', "it was made with another teacher (its files)"),
    ],
)
def test_what_a_cache_was_made_of_is_damaged(cache, refused, content, said):
    (cache / "cache.json").write_text(content)
    line = refused(cache)
    assert said in line and str(cache) in line


def test_segments_that_nobody_knows_the_origin_of(cache, refused):
    (cache / "cache.json").unlink()
    assert "it has segments and no cache.json, so that nobody knows what they were made of" in refused(cache)


def test_a_damaged_head(cache, refused):
    os.truncate(cache / "head.safetensors", 100)
    assert f"{cache / 'head.safetensors'}: the teacher's LM head cannot be read" in refused(cache)


def test_a_cache_that_another_run_fills(refused, tmp_path):
    folder = tmp_path / "cache"
    with sole_writer(folder, inside=True):
        assert f"another process is writing {folder}: wait until it ends" in refused(folder)


def test_a_folder_that_is_a_file(refused, tmp_path):
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'} cannot be written" in refused(tmp_path / "file")


# -- what a run is known by ---------------------------------------------------------------------------------------


def test_a_run_resumes_when_the_cache_is_whole_or_elsewhere(world, tmp_path):
    changes = {"optimizer": {"steps": 6}, "checkpoint": {"every": 2}}
    whole = trained(with_cache(world, tmp_path / "whole", tmp_path / "a", **changes))
    assert trained(with_cache(world, tmp_path / "run", tmp_path / "b", **changes), step=3).killed
    again = trained(with_cache(world, tmp_path / "run", tmp_path / "a", **changes))
    assert "at step 2" in again.said and "it is not loaded" in again.said
    assert again.trainer.identity == whole.trainer.identity
    assert same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_run_with_another_form_is_refused_by_name(world, tmp_path):
    changes = {"optimizer": {"steps": 3}, "checkpoint": {"every": 1}}
    assert trained(with_cache(world, tmp_path / "run", tmp_path / "a", **changes), step=2).killed
    file = with_cache(world, tmp_path / "run", tmp_path / "b", cache={"form": "contrast"}, **changes)
    with pytest.raises(UserError, match=r"begun with another config \(teacher\.cache\.form pair -> contrast\)"):
        trained(file)
    assert not (tmp_path / "b").exists()


def test_a_run_that_begins_to_use_a_cache_is_refused_by_name(world, tmp_path):
    """Its states are those of the run without, but not bit for bit where samples come twice."""
    changes = {"optimizer": {"steps": 3}, "checkpoint": {"every": 1}}
    assert trained(with_cache(world, tmp_path / "run", None, **changes), step=2).killed
    with pytest.raises(UserError, match=r"begun with another config \(teacher\.cache"):
        trained(with_cache(world, tmp_path / "run", tmp_path / "b", **changes))
    trained(with_cache(world, tmp_path / "run", None, **changes))
