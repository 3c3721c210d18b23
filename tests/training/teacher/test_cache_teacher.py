"""`caad-ds cache-teacher`: it computes what is missing, once, and what has changed since."""

import pytest

from caad_ds.distill.teacher_cache.filling_state import MARK
from caad_ds.distill.teacher_cache.segments import SegmentWriter
from caad_ds.training.teacher import cache_filling, cache_teacher
from caad_ds.utils.errors import UserError
from data_prep.verify import verify
from tests.command import run_command
from tests.training import launching
from tests.training.disk import remount
from tests.training.teacher.in_process import Killed, rows_of, trained, with_cache


@pytest.fixture
def file(world, others, tmp_path):
    """A config with training data of 24 samples and validation data of 6."""
    return with_cache(world, tmp_path / "out", tmp_path / "cache", data={"validation": str(others(tmp_path / "more"))})


@pytest.fixture
def fill(file, capsys):
    """Fill the cache; returns what was said."""

    def fill(*arguments: object) -> str:
        assert run_command(cache_teacher, "--config", file, "--batch", 4, *arguments) == 0
        return "".join(capsys.readouterr())

    return fill


def test_it_resumes_after_a_kill(fill, file, tmp_path, monkeypatch):
    finish, rounds = SegmentWriter.finish, []

    def dies_in_the_third(self):
        rounds.append(self)
        if len(rounds) == 3:
            raise Killed
        return finish(self)

    monkeypatch.setattr(cache_filling, "ROUNDS", 1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SegmentWriter, "finish", dies_in_the_third)
        patch.setattr(SegmentWriter, "close", lambda self: None)  # SIGKILL leaves what is half written
        run_command(cache_teacher, "--config", file, "--batch", 4)
    assert len(rows_of(tmp_path / "cache")) == 8
    assert "22 samples computed; 30 samples" in fill()
    assert "0 samples computed; 30 samples" in fill()
    assert run_command(verify, tmp_path / "cache") == 0


def test_parts_fill_it_together(fill, tmp_path):
    assert "15 samples computed; 15 samples" in fill("--shard", "0/2")
    assert "15 samples computed; 30 samples" in fill("--shard", "1/2")
    assert run_command(verify, tmp_path / "cache") == 0


def test_a_part_does_not_declare_the_whole_gone_through(alone, fill, file, tmp_path):
    """A training that was killed while it filled has left a mark; the samples of other parts may have changed since."""
    assert trained(file, step=2).killed
    [mark] = (tmp_path / "cache").glob(f"*{MARK}")
    fill("--shard", "0/2")
    fill("--shard", "1/2")
    assert mark.exists()
    fill()
    assert not mark.exists()


def test_it_computes_what_has_changed(world, fill, file, changed):
    fill()
    file.write_text(file.read_text().replace(str(world / "shards"), str(changed)))
    assert "1 sample computed; 31 samples" in fill()


# -- damage ---------------------------------------------------------------------------------------------------------


def test_dropped_samples_are_computed_again_bit_for_bit(world, fill, file, tmp_path):
    """Without the teacher they are named and refused."""
    cache = tmp_path / "cache"
    fill("--batch", 1)  # in a batch of one a sample has the same rounding again
    whole = rows_of(cache)
    rows = min(cache.glob("*.rows"))
    data = bytearray(rows.read_bytes())
    data[3] ^= 1
    data[-3] ^= 1
    rows.write_bytes(data)
    assert run_command(verify, cache, "--drop-damaged") == 1
    left = rows_of(cache)
    assert len(left) == len(whole) - 2 and left.items() < whole.items()
    reads = with_cache(world, tmp_path / "reads", cache, cache={"fill": False})
    line = launching.refusal(reads)
    assert (
        "sample clip-" in line
        and f"teacher.cache.path {cache} has no rows of it (it has none), nor of 1 others" in line
    )
    assert "2 samples computed; 30 samples" in fill("--batch", 1)
    assert rows_of(cache) == whole and run_command(verify, cache) == 0
    assert "it is not loaded" in launching.train(reads)


# -- a folder that cannot be written, refused before a model is loaded ----------------------------------------------


@pytest.fixture
def refusal(file, monkeypatch):
    """Returns what the command says as it is refused; it must not load models."""

    def refused() -> str:
        monkeypatch.setattr(cache_filling, "load_models", None)
        with pytest.raises(UserError) as caught:
            run_command(cache_teacher, "--config", file)
        return str(caught.value)

    return refused


def test_a_folder_that_is_a_file(refusal, tmp_path):
    (tmp_path / "cache").touch()
    assert refusal() == f"{tmp_path / 'cache'} cannot be written (File exists): write elsewhere"


def test_a_folder_below_a_file(world, tmp_path, file, refusal):
    (tmp_path / "a").touch()
    file.write_text(file.read_text().replace(str(tmp_path / "cache"), str(tmp_path / "a/cache")))
    assert refusal() == f"{tmp_path / 'a/cache'} cannot be written (Not a directory): write elsewhere"


def test_a_folder_on_a_file_system_that_is_mounted_read_only(world, tmp_path, file, refusal, disk):
    (folder := disk(200) / "cache").mkdir()
    remount(folder.parent, "ro")
    file.write_text(file.read_text().replace(str(tmp_path / "cache"), str(folder)))
    assert refusal() == f"{folder} cannot be written (Read-only file system): write elsewhere"
