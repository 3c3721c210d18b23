"""Reading from streams: every sample comes, ranks share the shards, and nothing hostile gets through."""

import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from caad_ds.data.shard_reader import IndexedReader
from caad_ds.data.stream import StreamReader, blocks, expand
from caad_ds.data.tar_members import BrokenSample
from caad_ds.utils.errors import UserError
from data_prep.pack.pack import pack
from tests import memory
from tests.data.audio.hostile import FLAC, GOOD, HOSTILE, RECORD, member, tar


@pytest.fixture
def folder(manifest, tmp_path) -> Path:
    """Thirteen samples in some shards."""
    pack(manifest, tmp_path / "out", 16_000)
    return tmp_path / "out"


def opened(train, *, rank: int = 0, world_size: int = 1, buffer: int = 1, skip: bool = False) -> StreamReader:
    return StreamReader(train, seed=0, rank=rank, world_size=world_size, buffer=buffer, skip=skip)


def keys(reader: StreamReader, number: int, position: int = 0) -> list[str]:
    return [sample.key for sample in islice(reader.samples(30, position), number)]


def test_a_pass_gives_what_the_indexed_reader_gives(folder):
    indexed = IndexedReader(folder)
    wanted = {sample.key: sample for sample in (indexed[number] for number in range(len(indexed)))}
    found = list(islice(opened(str(folder)).samples(30), len(indexed)))
    assert Counter(sample.key for sample in found) == Counter(list(wanted))
    for sample in found:
        assert sample.record == wanted[sample.key].record
        for a, b in zip(sample.waveforms, wanted[sample.key].waveforms, strict=True):
            np.testing.assert_array_equal(a, b)


def test_ranks_share_the_shards_and_the_order_is_the_seeds(folder):
    size = len(IndexedReader(folder))
    shards = len(list(folder.glob("*.tar")))
    readers = [opened(str(folder), rank=rank, world_size=shards) for rank in range(shards)]
    first = []  # each rank's first shard: together one pass over all
    for reader in readers:
        for sample in reader.samples(30):
            if reader.position >= shards:
                break
            first.append(sample.key)
    assert len(first) == len(set(first)) == size
    once = keys(opened(str(folder), buffer=8), 3 * size)
    assert once == keys(opened(str(folder), buffer=8), 3 * size) and once[:size] != once[size : 2 * size]
    assert once != keys(opened(str(folder), buffer=1), 3 * size)
    assert len(set(once)) == size  # how often is not exact: some of each pass wait in the buffer


def test_a_position_is_where_the_stream_goes_on(folder):
    reader = opened(str(folder))
    stream = reader.samples(30)
    seen = []
    while reader.position < 4:
        seen.append(next(stream).key)
    rest = [next(stream).key for _ in range(20)]
    assert keys(opened(str(folder)), 21, position=4) == [seen[-1], *rest]


def test_addresses_are_folders_braces_pipes_and_lists(folder, monkeypatch):
    names = sorted(str(path) for path in folder.glob("*.tar"))
    assert expand(str(folder)) == names
    assert expand(f"{folder}/train-{{000000..00000{len(names) - 1}}}.tar") == names
    assert expand([names[0], f"pipe:cat {folder}/train-00000{{1,2}}.tar"]) == [
        names[0],
        *(f"pipe:cat {folder}/train-00000{number}.tar" for number in (1, 2)),
    ]
    for wrong in ("s3://{a", "${WHERE}/a.tar", []):
        with pytest.raises(UserError, match=r"data\.train"):
            expand(wrong)
    size = len(IndexedReader(folder))
    piped = opened([f"pipe:cat {name}" for name in names])
    assert Counter(keys(piped, size)) == Counter(keys(opened(str(folder)), size))


def test_object_stores_are_read_by_their_tools(folder, tmp_path, monkeypatch):
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    aws = tmp_path / "bin/aws"
    aws.parent.mkdir()
    aws.write_text('#!/bin/sh\n[ "$1 $2 $4" = "s3 cp -" ] && exec cat "$FOLDER/${3#s3://bucket/}"\n')
    aws.chmod(0o755)
    monkeypatch.setenv("PATH", f"{aws.parent}:/usr/bin:/bin")
    monkeypatch.setenv("FOLDER", str(folder))
    size = len(IndexedReader(folder))
    names = sorted(path.name for path in folder.glob("*.tar"))
    try:
        for start in (f"http://127.0.0.1:{server.server_port}/", "s3://bucket/"):
            found = keys(opened([start + name for name in names]), size)
            assert Counter(found) == Counter(keys(opened(str(folder)), size))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("address", ["/nowhere/a.tar", "pipe:exit 3", "pipe:cat /nowhere/a.tar", "gopher://a/b.tar"])
def test_what_cannot_be_opened_is_named(address):
    with pytest.raises(UserError, match=r"nowhere|exit 3|gopher") as caught:
        keys(opened([address]), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_sample_is_skipped_or_named_and_costs_no_memory(tmp_path, name):
    data, _ = HOSTILE[name]
    (tmp_path / "bad.tar").write_bytes(tar(data))
    (tmp_path / "good.tar").write_bytes(tar(member("b.json", RECORD), member("b.flac", FLAC)))

    def is_cheap(attempt: int) -> bool:
        with memory.traced():
            with pytest.raises(
                UserError, match=r"bad\.tar.*; pack or copy it again, or set data\.skip_broken"
            ) as caught:
                keys(opened([str(tmp_path / "bad.tar")]), 1)
            skipping = opened([str(tmp_path / "bad.tar"), str(tmp_path / "good.tar")], skip=True)
            assert set(keys(skipping, 5)) == {"b"} and skipping.skipped >= 3
            peak = memory.peak()
        assert "\n" not in str(caught.value)
        return peak < len(data) * 12 + (6 << 20)

    assert memory.in_one_attempt(is_cheap)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar", "good.tar"]


@pytest.mark.parametrize("length", [0, 100, 700, len(GOOD) - 1200, len(GOOD)])
def test_a_stream_that_is_cut_short_gives_what_is_whole_and_says_so(tmp_path, length, capsys):
    data = tar(GOOD, member("b.json", RECORD), member("b.flac", FLAC), member("c.json", RECORD), member("c.flac", FLAC))
    first = len(GOOD)
    (tmp_path / "cut.tar").write_bytes(data[: first + length] if length else b"")
    reader = opened([str(tmp_path / "cut.tar")], skip=True)
    if not length:
        with pytest.raises(UserError, match="it ends early; this is number 100 in a row"):
            keys(reader, 1)
        return
    whole = {"a", "b"} if length == len(GOOD) else {"a"}
    assert set(keys(reader, 4)) == whole and reader.skipped >= 1
    assert "it ends early" in capsys.readouterr().err


def test_a_tar_without_samples_and_one_without_end_are_broken(tmp_path):
    (tmp_path / "empty.tar").write_bytes(tar())
    with pytest.raises(UserError, match="it holds no sample"):
        keys(opened([str(tmp_path / "empty.tar")]), 1)
    with pytest.raises(BrokenSample, match="it continues after its end"), open("/dev/zero", "rb") as zeros:
        list(blocks(zeros))


def test_other_tools_members_are_read(tmp_path):
    """A record with a long key, as tarfile writes it, and as GNU tar does."""
    import tarfile

    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        key = "k" * 150
        record = RECORD.replace(b'"a"', f'"{key}"'.encode())
        with tarfile.open(tmp_path / f"{form}.tar", "w", format=form) as out:
            for name, data in ((f"{key}.json", record), (f"{key}.flac", FLAC)):
                (tmp_path / "data").write_bytes(data)
                out.add(tmp_path / "data", name)
    assert keys(opened([str(tmp_path / f"{tarfile.PAX_FORMAT}.tar")]), 1) == ["k" * 150]
