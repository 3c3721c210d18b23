"""Packing: round trip, the same input gives the same bytes, no partial files are left."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import webdataset

from caad_ds.data.shard_reader import IndexedReader
from caad_ds.utils.errors import UserError
from data_prep.common.manifest import load_manifest, write_manifest
from data_prep.pack.pack import pack
from tests.data.tones import contents, read, record
from tests.tolerance import LEAST_BIT

SMALL = 16_000  # bytes: several shards


def test_samples_come_back_with_their_records_and_waveforms(manifest, tmp_path):
    index, fresh = pack(manifest, tmp_path / "out", SMALL)
    reader = IndexedReader(tmp_path / "out")
    records = load_manifest(manifest)
    assert fresh and len(reader) == len(index) == len(records) and len(index.file.shards) > 2
    for number, expected in enumerate(records):
        sample = reader[number]
        assert {**sample.record, "audios": 0} == {**expected, "audios": 0}
        assert [audio["text"] for audio in sample.record["audios"]] == ["hello"] * len(expected["audios"])
        for waveform, audio in zip(sample.waveforms, expected["audios"], strict=True):
            channels, rate = soundfile.read(audio["path"], always_2d=True)
            original = soxr.resample(channels.mean(axis=1), rate, 16_000)
            assert waveform.dtype == np.float32
            np.testing.assert_allclose(waveform, original, atol=LEAST_BIT)
    assert sum(sample.seconds for sample in index.samples) == pytest.approx(sum(s.seconds for s in index.file.shards))


def test_webdataset_reads_the_shards(manifest, tmp_path):
    index, _ = pack(manifest, tmp_path / "out", SMALL)
    urls = [str(tmp_path / "out" / shard.name) for shard in index.file.shards]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [sample.key for sample in index.samples]
    assert [json.loads(sample["json"])["id"] for sample in found] == [r["id"] for r in load_manifest(manifest)]
    assert {"flac"} <= found[0].keys() and {"0.flac", "1.flac"} <= found[-1].keys()


def test_equal_input_gives_equal_bytes_with_any_number_of_workers(manifest, tmp_path):
    pack(manifest, tmp_path / "one", SMALL)
    pack(manifest, tmp_path / "two", SMALL, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_shards_are_cut_by_bytes(manifest, tmp_path):
    index, _ = pack(manifest, tmp_path / "out", SMALL)
    for shard in index.file.shards:
        last = shard.samples[-1]
        assert last.offset + last.size + 1024 <= SMALL or len(shard.samples) == 1
        assert shard.bytes == (tmp_path / "out" / shard.name).stat().st_size


def test_a_finished_folder_is_left_alone_and_another_manifest_refused(manifest, tmp_path):
    out = tmp_path / "out"
    pack(manifest, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert not pack(manifest, out)[1]
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    write_manifest(manifest, load_manifest(manifest)[:5])
    with pytest.raises(UserError, match="another manifest"):
        pack(manifest, out)
    (out / "index.json").unlink()
    with pytest.raises(UserError, match="holds shards without"):
        pack(manifest, out)


def test_audio_that_does_not_decode_is_rejected_listed_and_counted(manifest, tmp_path):
    records = load_manifest(manifest)
    Path(records[3]["audios"][0]["path"]).write_bytes(b"no audio at all")
    Path(records[7]["audios"][0]["path"]).unlink()
    index, _ = pack(manifest, tmp_path / "out")
    rejected = read(tmp_path / "out/index.rejected.jsonl")
    assert [row["id"] for row in rejected] == [records[3]["id"], records[7]["id"]]
    assert all(row["reason"] for row in rejected)
    assert index.file.rejected == 2 and len(index) == len(records) - 2


def test_a_manifest_without_a_usable_record_is_an_error_that_names_the_first(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [record("a", tmp_path / "absent.wav"), record("b", tmp_path / "gone.wav")])
    with pytest.raises(UserError, match=r"no record is usable, the first of 2: a: .*absent\.wav"):
        pack(tmp_path / "m.jsonl", tmp_path / "out")
    assert list(contents(tmp_path / "out")) == ["index.rejected.jsonl"]


@pytest.mark.parametrize(("field", "command"), [("messages", "describe"), ("response", "pseudo-gt")])
def test_an_unanswered_record_is_rejected_and_names_the_step_that_is_missing(manifest, tmp_path, field, command):
    records = load_manifest(manifest)
    del records[2][field]
    write_manifest(manifest, records)
    index, _ = pack(manifest, tmp_path / "out")
    assert len(index) == len(records) - 1 and index.file.rejected == 1
    (rejected,) = read(tmp_path / "out/index.rejected.jsonl")
    assert rejected["id"] == records[2]["id"] and f"prep {command}" in rejected["reason"]


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=36k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_one_line_and_packing_goes_on_when_there_is_room(manifest, small_disk, tmp_path):
    out = small_disk / "out"
    with pytest.raises(UserError, match="no space left") as caught:
        pack(manifest, out, SMALL)
    assert "\n" not in str(caught.value)
    assert not list(out.glob(".*")) and not (out / "index.json").exists()
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    pack(manifest, out, SMALL)
    pack(manifest, tmp_path / "whole", SMALL)
    assert contents(out) == contents(tmp_path / "whole")


def test_an_output_that_is_a_file_is_refused(manifest, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        pack(manifest, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_prompts_about_one_audio_and_a_file_that_is_replaced(tone, tmp_path):
    """What prompts about one audio share is decoded once, and again where the file is another one since."""
    path = tone("clip.wav", 0.5)
    rows = [record(f"{number}", path) for number in range(3)]
    for out in ("first", "second"):
        write_manifest(tmp_path / f"{out}.jsonl", rows)
        pack(tmp_path / f"{out}.jsonl", tmp_path / out)
        tone("clip.wav", 0.4)
    first, second = (
        [sample.pcm for sample in IndexedReader(tmp_path / out).index.samples] for out in ("first", "second")
    )
    assert len(set(first)) == len(set(second)) == 1 and first[0] != second[0]
