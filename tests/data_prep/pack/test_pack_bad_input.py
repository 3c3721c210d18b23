"""Records that cannot be packed are rejected with their reason, counted and listed, and the others are packed."""

import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from caad_ds.cli import main
from caad_ds.data.audio.decode import AudioError, examine, load, measured_pcm16
from caad_ds.data.audio.flac import decode, encode
from caad_ds.data.audio.pcm16 import to_pcm16
from caad_ds.data.shard_reader import IndexedReader
from data_prep.common.manifest import write_manifest
from data_prep.pack.pack import pack
from tests.data.tones import read, record, tone


def lying_flac(path: Path, claimed: int) -> Path:
    """A tenth of a second whose header claims so many samples."""
    data = bytearray(encode(np.arange(1600, dtype="<i2")))
    total = int.from_bytes(data[21:26], "big")  # of STREAMINFO: 4 bits of sample size, 36 bits of the number of samples
    data[21:26] = ((total >> 36 << 36) | claimed).to_bytes(5, "big")
    path.write_bytes(data)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    tone(tmp_path / "good.wav", 300)
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "corrupt.wav").write_bytes(b"RIFF" + bytes(reversed(whole))[4:])
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "no_samples.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "infinite.wav", np.full(100, np.inf), 16_000, subtype="FLOAT")
    (tmp_path / "headerless.raw").write_bytes(bytes(3200))
    return tmp_path


def test_each_bad_record_is_listed_and_the_others_are_packed(folder, capsys):
    good = record("good", folder / "good.wav")

    def part(name: str, **place: float) -> str:
        return json.dumps({**good, "id": name, "audios": [{"path": "good.wav", "text": "", **place}]})

    names = ["corrupt.wav", "empty.wav", "no_samples.wav", "infinite.wav", "headerless.raw", "absent.wav", "x" * 300]
    lines = [json.dumps(record(name, folder / name)) for name in names]
    lines += [part("no end", offset=0.1), part("backwards", offset=0.1, duration=-1.0), part("nan", offset=math.nan)]
    lines += [part("before", offset=-1.0, duration=1.0), part("beyond", offset=9.0, duration=1.0)]
    lines += [json.dumps({**good, "id": "unasked", "messages": []}), json.dumps({**good, "id": "mute", "response": ""})]
    lines += [json.dumps({**good, "id": "\ud800"}), '{"id": "torn', json.dumps(good), part("last", duration=0.2)]
    lines += [json.dumps(good)]
    manifest = folder / "m.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    assert main(["prep", "pack", "--manifest", str(manifest), "--out", str(folder / "out"), "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert f"2 samples, 0.00 h in 1 shard; 17 rejected, see {folder / 'out/index.rejected.jsonl'}" in said
    rejected = read(folder / "out/index.rejected.jsonl")
    torn = [f"m.jsonl line {number}" for number in (15, 16)]
    short = ["no end", "backwards", "m.jsonl line 10", "before", "beyond", "unasked", "mute"]
    assert [row["id"] for row in rejected] == [*names, *short, *torn, "good"]
    assert all("\n" not in row["reason"] and row["reason"] for row in rejected)
    reader = IndexedReader(folder / "out")
    assert [reader[number].key for number in range(len(reader))] == ["good", "last"]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["out"]


def test_formats_rates_spaces_unicode_and_links_are_packed(tmp_path):
    rows = []
    for name, rate, channels in (("a b.ogg", 44_100, 2), ("c.mp3", 44_100, 2), ("žluťoučký.flac", 48_000, 1)):
        tone(tmp_path / "far away" / name, 300, 1.0, rate, channels)
        (tmp_path / name).symlink_to(tmp_path / "far away" / name)
        rows.append(record(name, tmp_path / name))
    write_manifest(tmp_path / "m.jsonl", rows)
    pack(tmp_path / "m.jsonl", tmp_path / "out")
    reader = IndexedReader(tmp_path / "out")
    assert [reader[number].record["id"] for number in range(3)] == [row["id"] for row in rows]
    assert all(abs(reader[number].waveforms[0].size - 16_000) < 1_200 for number in range(3))  # MP3 pads


def test_parts_of_a_long_file_are_read_alone(tmp_path):
    hours = np.tile(np.arange(-16_000, 16_000, dtype="<i2"), 5_400)  # 3 h
    soundfile.write(tmp_path / "long.wav", hours, 16_000)
    rows = [record(f"p{start}", tmp_path / "long.wav") for start in (0.0, 5_400.5, 10_799.0)]
    for row, start in zip(rows, (0.0, 5_400.5, 10_799.0)):
        row["audios"][0] |= {"offset": start, "duration": 1.0}
    write_manifest(tmp_path / "m.jsonl", rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pack(tmp_path / "m.jsonl", tmp_path / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the file has 345 MB
    reader = IndexedReader(tmp_path / "out")
    for number, start in enumerate((0, 86_408_000, 172_784_000)):
        wanted = hours[start : start + 16_000]
        assert (to_pcm16(reader[number].waveforms[0]) == wanted).all()
        assert "offset" not in reader[number].record["audios"][0]


@pytest.mark.parametrize("claimed", [0, 160_000, (1 << 36) - 1])
def test_a_header_that_lies_costs_no_memory_and_no_time(tmp_path, claimed):
    path = lying_flac(tmp_path / "a.flac", claimed)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        for read_it in (examine, load, measured_pcm16, lambda path: decode(path.read_bytes())):
            try:
                result = read_it(path)
                assert result == 0.1 if isinstance(result, float) else len(result) == 1600
            except AudioError as error:
                assert str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "PCM_U8"])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_the_short_ways_give_the_samples_of_the_long_one(tmp_path, subtype, channels, rate):
    import soxr

    wave = np.random.default_rng(0).uniform(-1, 1, (4_000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype=subtype)
    read_back, _ = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)
    long_way = soxr.resample(read_back.mean(axis=1), rate, 16_000)
    np.testing.assert_array_equal(load(tmp_path / "a.wav"), long_way)
    np.testing.assert_array_equal(measured_pcm16(tmp_path / "a.wav")[0], to_pcm16(long_way))
    start, end = round(0.1 * rate), round(0.1 * rate) + round(0.05 * rate)
    part = soxr.resample(read_back[start:end].mean(axis=1), rate, 16_000)
    np.testing.assert_array_equal(measured_pcm16(tmp_path / "a.wav", 0.1, 0.05)[0], to_pcm16(part))
