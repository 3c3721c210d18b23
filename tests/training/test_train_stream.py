"""Training from a stream: ranks take equal steps, a run resumes at its shard, broken samples stop it or are skipped."""

import json
import signal

import pytest

from data_prep.pack.pack import pack
from tests.training.launching import Run, curve, train
from tests.training.tiny import config


@pytest.fixture(scope="module")
def shards(world, tmp_path_factory):
    """The tiny world's samples in eight shards."""
    folder = tmp_path_factory.mktemp("stream") / "shards"
    index, _ = pack(world / "answered.jsonl", folder, 60_000)
    assert len(index.file.shards) >= 6
    return folder


def stream(train, **changes) -> dict:
    return {"reader": "stream", "train": train, "shuffle_buffer": 3, **changes}


def positions(out) -> list[int]:
    folder = out / "checkpoints" / (out / "checkpoints/latest").read_text()
    return json.loads((folder / "state.json").read_text())["state"]["shards"]


def test_two_ranks_train_and_go_on_at_their_shards(world, shards, tmp_path):
    urls = [f"pipe:cat {shards}/{path.name}" for path in sorted(shards.glob("*.tar"))]
    file = config(world, tmp_path / "out", data=stream(urls), optimizer={"steps": 14})
    run = Run(file, 2)
    run.wait_for("step 6/")
    run.signal(signal.SIGUSR1)
    assert run.wait() == [75, 75], run.output()
    assert "an epoch is not exact" in run.output() and "the stream begins with shard 0" in run.output()
    held = positions(tmp_path / "out")
    assert held[0] % 2 == 0 and held[1] % 2 == 1 and min(held) > len(urls) / 2  # each its own, after some 6 x 4 samples
    again = train(file, 2)
    assert f"the stream begins with shard {held[0]}" in again and "resumed from" in again
    points = curve(tmp_path / "out", "train/kd")
    assert [step for step, _ in points] == list(range(1, 15))
    assert all(value > 0 for _, value in points)
    assert min(positions(tmp_path / "out")) > max(held)


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_where_the_slowest_was(world, shards, tmp_path):
    file = config(world, tmp_path / "out", data=stream(str(shards)), checkpoint={"every": 3})
    run = Run(file, 2)
    run.wait_for("step 2/")
    run.signal(signal.SIGUSR1)
    assert run.wait() == [75, 75], run.output()
    held = positions(tmp_path / "out")
    assert f"the stream begins with shard {min(held)}" in train(file)


@pytest.mark.slow
def test_a_broken_shard_stops_all_ranks_or_is_skipped(world, shards, tmp_path):
    whole = sorted(str(path) for path in shards.glob("*.tar"))
    broken = tmp_path / "broken.tar"
    broken.write_bytes((shards / "train-000000.tar").read_bytes()[:3_000])
    file = config(world, tmp_path / "out", data=stream([str(broken), *whole]))
    run = Run(file, 2)
    assert run.wait() == [2, 2], run.output()
    assert f"error: {broken}: it ends early; pack or copy it again, or set data.skip_broken" in run.output()
    said = train(config(world, tmp_path / "skip", data=stream([str(broken), *whole], skip_broken=True)), 2)
    assert "that were skipped, over all ranks: " in said


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data": {"train": "s3://bucket/a.tar"}}, "data: train s3://bucket/a.tar is no folder; set reader: stream"),
        ({"data": {"shuffle_buffer": 3}}, "shuffle_buffer: belongs to reader stream"),
        ({"data": {"reader": "stream", "group_by_audio": True}}, "group_by_audio orders the data"),
        (
            {"data": {"reader": "stream"}, "optimizer": {"steps": None, "epochs": 2}},
            "knows no lengths and no number of samples: give optimizer.steps",
        ),
        (
            {"data": {"reader": "stream"}, "teacher": {"negative": "shuffled"}},
            "negative shuffled takes another sample's audio, and data.reader stream knows none",
        ),
    ],
)
def test_what_a_stream_cannot_do_is_refused(world, tmp_path, changes, complaint, capsys):
    from caad_ds.cli import main

    assert main(["train", "--config", str(config(world, tmp_path / "out", **changes))]) == 2
    assert complaint in capsys.readouterr().err
