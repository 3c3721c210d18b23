"""Reading by offset: every way in which a shard can be broken is an error that names shard and sample."""

import hashlib
import io
import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from caad_ds.data import shard_reader as reader_module
from caad_ds.data.shard_index import ShardIndex
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.utils.errors import UserError
from data_prep.common.manifest import write_manifest
from data_prep.pack.pack import pack
from tests import memory
from tests.data.audio.hostile import FLAC, HOSTILE, RECORD
from tests.data.tones import record, tone


@pytest.fixture
def folder(manifest, tmp_path) -> Path:
    pack(manifest, tmp_path / "out", 16_000)
    return tmp_path / "out"


def handmade(folder: Path, members: list[tuple[tarfile.TarInfo | str, bytes]]) -> Path:
    """A shard of one sample `a` with the given members, and an index that agrees with it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        size = buffer.tell()
    return indexed(folder, buffer.getvalue(), size)


def indexed(folder: Path, data: bytes, size: int) -> Path:
    """A shard whose first `size` bytes are the sample `a`."""
    folder.mkdir(exist_ok=True)
    (folder / "train-000000.tar").write_bytes(data)
    sample = {"key": "a", "offset": 0, "size": size, "seconds": 0.1, "tokens": 1, "pcm": ""}
    shard = {"name": "train-000000.tar", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "seconds": 0.1}
    index = {"version": 1, "manifest": "", "shard_bytes": 1, "rejected": 0, "shards": [{**shard, "samples": [sample]}]}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


def test_a_whole_handmade_sample_reads(tmp_path):
    sample = IndexedReader(handmade(tmp_path / "h", [("a.json", RECORD), ("a.flac", FLAC)]))[0]
    assert sample.key == "a" and len(sample.waveforms[0]) == 1600


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([("a.json", RECORD)], "audio members are"),
        ([("a.flac", FLAC)], "a.json is missing"),
        ([("a.json", RECORD), ("a.flac", FLAC), ("a.txt", b"x")], "audio members are"),
        ([("a.json", RECORD), ("../a.flac", FLAC)], "leaves the shard"),
        ([("a.json", RECORD), ("/a.flac", FLAC)], "leaves the shard"),
        ([("a.json", RECORD), ("b.flac", FLAC)], "another sample"),
        ([("a.json", RECORD), (link("a.flac"), b"")], "no plain file"),
        ([("a.json", b"{"), ("a.flac", FLAC)], "no JSON"),
        ([("a.json", b"[]"), ("a.flac", FLAC)], "not an object"),
        ([("a.json", RECORD), ("a.flac", b"noise")], "sample a: "),
        ([("a.json", RECORD), ("a.flac", FLAC[:60])], "sample a: "),
    ],
)
def test_a_broken_sample_is_named(tmp_path, members, complaint):
    reader = IndexedReader(handmade(tmp_path / "h", members))
    with pytest.raises(UserError, match=complaint) as caught:
        reader[0]
    assert "train-000000.tar, sample a" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_sample_is_named_and_costs_no_memory(tmp_path, name):
    data, complaint = HOSTILE[name]
    reader = IndexedReader(indexed(tmp_path / "h", data, len(data)))

    def is_cheap(attempt: int) -> bool:
        with memory.traced():
            with pytest.raises(UserError, match=complaint) as caught:
                reader[0]
            peak = memory.peak()
        assert "train-000000.tar, sample a" in str(caught.value) and "\n" not in str(caught.value)
        return peak < len(data) * 4 + (1 << 21)

    assert memory.in_one_attempt(is_cheap)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["h", "index.json", "train-000000.tar"]


@pytest.mark.parametrize("head", [reader_module.HEAD, 700, 1024, 2048])
def test_a_record_is_read_without_its_audio(folder, tmp_path, monkeypatch, head):
    """Also if it is longer than the first read, or not the first member."""
    monkeypatch.setattr(reader_module, "HEAD", head)
    reader = IndexedReader(folder)
    for number in range(len(reader)):
        sample, whole = reader.without_audio(number), reader[number]
        assert (sample.key, sample.record, sample.waveforms) == (whole.key, whole.record, [])
    later = IndexedReader(handmade(tmp_path / "h", [("a.flac", FLAC), ("a.json", RECORD)]))
    assert later.without_audio(0).record == later[0].record


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([("a.json", b"{"), ("a.flac", FLAC)], "no JSON"),
        ([("a.json", b"[]"), ("a.flac", FLAC)], "not an object"),
        ([("a.flac", FLAC)], "a.json is missing"),
        ([(link("a.json"), b""), ("a.flac", FLAC)], "no plain file"),
    ],
)
def test_a_broken_record_is_named_without_its_audio(tmp_path, members, complaint):
    with pytest.raises(UserError, match=f"train-000000.tar, sample a: .*{complaint}"):
        IndexedReader(handmade(tmp_path / "h", members)).without_audio(0)


@pytest.mark.parametrize("left_out", [set(), {0}, {12}, {3, 4, 5}, set(range(0, 13, 2)), set(range(12))])
def test_samples_that_are_left_out_are_as_if_never_packed(folder, left_out):
    reader, whole = IndexedReader(folder), IndexedReader(folder)
    assert len(whole) == 13 and len(whole.index.file.shards) > 2
    reader.leave_out(left_out)
    kept = [number for number in range(13) if number not in left_out]
    assert len(reader) == len(kept)
    assert [(reader[n].key, reader.read(n)) for n in range(len(kept))] == [(whole[n].key, whole.read(n)) for n in kept]
    assert list(reader.index.samples) == [whole.index.samples[n] for n in kept]


def test_a_member_longer_than_its_sample_is_refused(tmp_path):
    folder = handmade(tmp_path / "h", [("a.json", RECORD), ("a.flac", FLAC)])
    path = folder / "train-000000.tar"
    data = bytearray(path.read_bytes())
    header = tarfile.TarInfo("a.json")
    header.size = 1 << 32
    data[:512] = header.tobuf()
    path.write_bytes(data)
    with pytest.raises(UserError, match="claims 4294967296 bytes"):
        IndexedReader(folder)[0]


def test_a_shard_that_is_cut_short_is_refused_before_training(folder):
    shard = ShardIndex.load(folder).file.shards[1]
    os.truncate(folder / shard.name, 100)
    with pytest.raises(
        UserError, match=f"{shard.name} has 100 bytes where index.json says {shard.bytes}: copy it again"
    ):
        IndexedReader(folder)


def test_a_shard_that_shrinks_during_training_is_refused(folder):
    reader = IndexedReader(folder)
    os.truncate(folder / reader.index.file.shards[0].name, 1000)
    with pytest.raises(UserError, match="too early"):
        reader[0]


def test_index_errors_say_what_to_do(folder):
    index = folder / "index.json"
    whole = json.loads(index.read_text())

    def with_second(**changed: object) -> dict:
        first, second, *others = whole["shards"][0]["samples"]
        return {**whole, "shards": [{**whole["shards"][0], "samples": [first, {**second, **changed}, *others]}]}

    for content, complaint in (
        (with_second(offset=-1), r"at shards.0.samples.1.offset: Input should be greater"),
        (with_second(size=1 << 70), r"at shards.0.samples.1.size: Input should be less"),
        (with_second(kind="x"), r"at shards.0.samples.1.kind: Unexpected"),
        ({**whole, "version": 7}, "version 7"),
        ({**whole, "shards": [{"name": "x"}]}, "at shards.0.sha256"),
        ({**whole, "shards": [{**whole["shards"][0], "name": "../x.tar"}]}, "at shards.0.name"),
        ({**whole, "shards": [{**whole["shards"][0], "bytes": 10}]}, "beyond the end"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(UserError, match=complaint):
            ShardIndex.load(folder)
    index.write_text(json.dumps(whole)[:-50])
    with pytest.raises(UserError, match="cannot be read"):
        ShardIndex.load(folder)
    index.unlink()
    with pytest.raises(UserError, match=r"does not exist.*prep pack"):
        ShardIndex.load(folder)


def test_a_missing_shard_is_named(folder):
    shard = ShardIndex.load(folder).file.shards[-1]
    (folder / shard.name).unlink()
    with pytest.raises(UserError, match=f"{shard.name} is missing"):
        IndexedReader(folder)


def test_numbers_beyond_the_end_are_index_errors(folder):
    reader = IndexedReader(folder)
    with pytest.raises(IndexError):
        reader[len(reader)]
    with pytest.raises(IndexError):
        reader[-1]


def test_threads_forks_and_pickles_read_the_same(folder):
    reader = IndexedReader(folder)
    expected = [reader.read(number) for number in range(len(reader))]
    numbers = list(range(len(reader))) * 20
    fresh = IndexedReader(folder)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.read, numbers)) == [expected[number] for number in numbers]
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert [copy.read(number) for number in range(len(copy))] == expected
    child = os.fork()
    if child == 0:
        os._exit(0 if [reader.read(number) for number in range(len(reader))] == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_index_survives_a_round_trip(folder):
    index = ShardIndex.load(folder)
    before = (folder / "index.json").read_bytes()
    index.file.write(folder / "index.json")
    assert (folder / "index.json").read_bytes() == before
    entries = [index.locate(number)[1] for number in range(len(index))]
    listed = [entry for shard in json.loads(before)["shards"] for entry in shard["samples"]]
    assert list(map(asdict, entries)) == listed and entries == list(index.samples) == index.samples[:]
    assert index.samples[-1] == entries[-1] and ShardIndex.load(folder) == index


def open_files(folder: Path) -> int:
    links = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(link).startswith(str(folder)) for link in links)


def test_a_corpus_of_many_shards_does_not_use_up_the_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "OPEN_FILES", 5)
    tone(tmp_path / "a.wav", 300, 0.05)
    write_manifest(tmp_path / "m.jsonl", [record(f"r{number}", tmp_path / "a.wav") for number in range(60)])
    index, _ = pack(tmp_path / "m.jsonl", tmp_path / "out", 1)
    assert len(index.file.shards) == 60
    reader = IndexedReader(tmp_path / "out")
    expected = [reader.read(number) for number in range(60)]
    assert open_files(tmp_path) == 5
    numbers = [(7 * number) % 60 for number in range(1200)]
    with ThreadPoolExecutor(8) as pool:  # a file that is closed under a reader would give another shard's bytes
        assert list(pool.map(reader.read, numbers)) == [expected[number] for number in numbers]
    reader.close()
    assert open_files(tmp_path) == 0


def test_audio_of_several_prompts_is_decoded_once(tmp_path, monkeypatch):
    tone(tmp_path / "tone.flac", 300)
    rows = [record(name, tmp_path / "tone.flac") for name in "abc"]
    write_manifest(tmp_path / "m.jsonl", rows)
    pack(tmp_path / "m.jsonl", tmp_path / "out", 16_000)
    calls, decode = [], reader_module.flac.decode
    monkeypatch.setattr(reader_module.flac, "decode", lambda *a, **k: calls.append(1) or decode(*a, **k))
    reader_module._decoded.cache_clear()
    reader = IndexedReader(tmp_path / "out")
    first, *others = (reader[n].waveforms[0] for n in range(3))
    assert len(calls) == 1 and all((first == other).all() for other in others) and first.std() > 0
