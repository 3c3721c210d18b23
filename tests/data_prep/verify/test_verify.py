"""Verifying shards: every fault is found and listed, whatever the bytes are, and nothing sound is called one."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from caad_ds import cli
from caad_ds.data.shard_index import IndexFile, SampleEntry, Shard, ShardIndex
from caad_ds.utils.formatting import counted
from data_prep.common.manifest import write_manifest
from data_prep.pack.pack import pack
from tests.data_prep.lines import read

SMALL = 20_000  # bytes: several shards


def noise(path: Path, number: int, rate: int = 16_000, channels: int = 1) -> Path:
    """Write a different clip for every number, in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.2 * np.random.default_rng(number).standard_normal((int((0.1 + 0.02 * number) * rate), channels))
    soundfile.write(path, np.clip(wave, -1, 1), rate)
    return path


def record(name: str, *paths: Path, question: str = "Who speaks?", **fields: object) -> dict:
    content = "<start_audio><|AUDIO|><end_audio>" * len(paths) + question
    return {
        "id": name,
        "audios": [{"path": str(path), "text": "hello"} for path in paths],
        "messages": [{"role": "user", "content": content}],
        "response": "A tone.",
        **fields,
    }


@pytest.fixture
def records(tmp_path) -> list[dict]:
    clips = [noise(tmp_path / f"audio/{n}.wav", n, (16_000, 44_100)[n % 2], 1 + n % 2) for n in range(8)]
    one_each = [record(f"voice/{n}.take", clip) for n, clip in enumerate(clips)]
    return [*one_each, record("both", clips[0], clips[1]), record("again", clips[2], question="How many speak?")]


@pytest.fixture
def manifest(tmp_path, records) -> Path:
    write_manifest(tmp_path / "answered.jsonl", records)
    return tmp_path / "answered.jsonl"


@pytest.fixture
def shards(tmp_path, manifest) -> Path:
    pack(manifest, tmp_path / "shards", SMALL)
    return tmp_path / "shards"


@pytest.fixture
def verify(capsys):
    """Runs the command; returns its exit status and the lines of its standard output."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        status = cli.main(["prep", "verify", *map(str, arguments)])
        return status, capsys.readouterr().out.splitlines()

    return run


def key(name: str) -> str:
    return name.replace("/", "%2F").replace(".", "%2E")


def edit_index(folder: Path, change) -> None:
    """Apply `change` to the object in index.json."""
    content = json.loads((folder / "index.json").read_text())
    change(content)
    (folder / "index.json").write_text(json.dumps(content))


def test_a_sound_folder_has_no_fault_and_its_figures_are_reported(shards, manifest, verify):
    index = ShardIndex.load(shards)
    status, lines = verify(shards, "--manifest", manifest)
    seconds = np.array([entry.seconds for entry in index.samples])
    assert status == 0 and lines[-1] == f"{shards}: 10 samples in {counted(len(index.file.shards), 'shard')}, 0 faults"
    assert len(index.file.shards) > 2
    assert lines[0] == (
        f"durations in seconds: min {seconds.min():.2f}, median {np.median(seconds):.2f}, mean {seconds.mean():.2f}, "
        f"p95 {np.percentile(seconds, 95):.2f}, max {seconds.max():.2f}; {seconds.sum() / 3600:.2f} hours"
    )
    assert lines[1] == "9 different audios, 1 of them with several prompts"


def test_damage_is_named_by_shard_and_sample_with_any_number_of_workers(shards, verify):
    first, second, third, fourth = ShardIndex.load(shards).file.shards[:4]
    data = bytearray((shards / first.name).read_bytes())
    data[first.samples[0].offset + first.samples[0].size - 600] ^= 0xFF  # inside the FLAC
    (shards / first.name).write_bytes(data)
    (shards / second.name).unlink()
    os.truncate(shards / third.name, third.bytes - 12_000)
    (shards / fourth.name).unlink()
    os.mkfifo(shards / fourth.name)
    status, lines = verify(shards)
    found = "\n".join(lines)
    assert status == 1
    assert f"{first.name}: its sha256" in found
    assert f"{first.name}, sample {first.samples[0].key}" in found
    assert f"{second.name}: cannot be read (No such file" in found
    assert f"{third.name}: {third.bytes - 12_000} bytes where the index says {third.bytes}" in found
    assert f"{fourth.name}: cannot be read (it is no plain file)" in found
    assert verify(shards, "--workers", 2) == (status, lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sample: sample.update(seconds=sample["seconds"] + 1), "s where the index says"),
        (lambda sample: sample.update(pcm="0" * 64), "its audio is not what was packed"),
        (lambda sample: sample.update(size=sample["size"] - 512), "it holds|ends|claims|unexpected"),
        (lambda sample: sample.update(key="voice%2F0%2Eother"), "first difference"),
        (lambda sample: sample.update(offset=0, size=1 << 40), "lies beyond the end"),
    ],
)
def test_an_index_that_says_otherwise_is_found_out(shards, verify, change, message, capsys):
    edit_index(shards, lambda content: change(content["shards"][0]["samples"][0]))
    status = cli.main(["prep", "verify", str(shards)])
    output = capsys.readouterr()
    assert status == (2 if "beyond" in message else 1)
    assert any(part in output.out + output.err for part in message.split("|"))


def test_samples_and_shards_outside_the_index_are_found(shards, verify):
    index = ShardIndex.load(shards)
    last = index.file.shards[-1]

    def change(content: dict) -> None:
        dropped = content["shards"][-1]["samples"].pop()
        content["shards"][-1]["seconds"] -= dropped["seconds"]
        content["shards"][0]["samples"].append(content["shards"][0]["samples"][0])

    edit_index(shards, change)
    (shards / "train-000099.tar").write_bytes((shards / last.name).read_bytes())
    status, lines = verify(shards)
    found = "\n".join(lines)
    count = len(last.samples)
    assert status == 1
    assert f"{last.name}: it holds {count} samples, the index lists {count - 1}" in found
    assert "train-000099.tar: it is not in the index" in found
    assert f"sample {index.samples[0].key}: the index lists this key before" in found
    edit_index(shards, lambda content: content.update(shards=[]))
    assert verify(shards)[0] == 1


def flac(frames: int = 1600) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.arange(frames, dtype=np.int16), 16_000, format="FLAC")
    return buffer.getvalue()


def member(name: str, data: bytes = b"", **fields: object) -> bytes:
    """A tar member whose header may lie."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def sparse(name: str, size: int) -> bytes:
    """A member that claims `size` bytes, all of them holes."""
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name, "GNU.sparse.realsize": str(size)}
    return member(name, b"1\n0\n0\n".ljust(512, b"\0"), pax_headers=pax)


def packed(name: str, **changes: object) -> bytes:
    return json.dumps({**record(name, Path(f"{name}.flac")), **changes}).encode()


GIB10 = 10 << 30
HOSTILE = {
    "leaves": (lambda: member("../bad.json", packed("bad")) + member("bad.flac", flac()), "leaves the shard"),
    "absolute": (lambda: member("/tmp/bad.json", packed("bad")), "leaves the shard"),
    "link": (lambda: member("bad.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no plain file"),
    "sparse": (lambda: sparse("bad.json", GIB10), "no plain file"),
    "claim": (lambda: member("bad.json", packed("bad"), size=GIB10), f"claims {GIB10} bytes"),
    "foreign": (lambda: member("bad.json", packed("bad")) + member("good.txt", b"x"), "another sample"),
    "no_audio": (lambda: member("bad.json", packed("bad")), "audio members are []"),
    "no_flac": (lambda: member("bad.json", packed("bad")) + member("bad.flac", b"RIFF"), "Format not recognised"),
    "deep": (lambda: member("bad.json", b"[" * 100_000) + member("bad.flac", flac()), "recursion"),
    "other_id": (lambda: member("bad.json", packed("b\nd")) + member("bad.flac", flac()), r"the id 'b\nd'"),
    "metadata": (lambda: member("bad.json", packed("bad", metadata=[1])) + member("bad.flac", flac()), "an object"),
    "no_answer": (lambda: member("bad.json", packed("bad", response="")) + member("bad.flac", flac()), "no response"),
    "longer": (lambda: member("bad.json", packed("bad")) + member("bad.flac", flac(3200)), "claims to last 0.2 s"),
    "zeros": (lambda: bytes(4096), "no tar members|is missing"),
    "garbage": (lambda: b"\xff" * 4096, "no tar members"),
}


def shard_of(folder: Path, blocks: dict[str, bytes]) -> None:
    """A shard of these samples, and an index that agrees with its bytes."""
    folder.mkdir()
    pcm = hashlib.sha256(np.arange(1600, dtype="<i2").tobytes()).hexdigest()
    entries, data = [], b""
    for name, block in blocks.items():
        entries.append(SampleEntry(name, len(data), len(block), 0.1, 5, pcm))
        data += block
    data += bytes(1024)
    (folder / "train-000000.tar").write_bytes(data)
    shard = Shard("train-000000.tar", hashlib.sha256(data).hexdigest(), len(data), 0.1 * len(entries), entries)
    IndexFile(1, "", 1, 0, [shard]).write(folder / "index.json")


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members_are_faults_and_nothing_is_written(case, tmp_path, verify):
    make, message = HOSTILE[case]
    good = member("good.json", packed("good", messages=[{"role": "user", "content": "<|AUDIO|>Hm?"}]))
    shard_of(tmp_path / "shards", {"good": good + member("good.flac", flac()), "bad": make()})
    before = sorted(tmp_path.rglob("*"))
    status, lines = verify(tmp_path / "shards")
    faults = [line for line in lines if line.startswith(f"{tmp_path / 'shards'}/train-000000.tar")]
    assert status == 1 and sorted(tmp_path.rglob("*")) == before
    assert any(part in faults[0] for part in message.split("|")) and "sample bad: " in faults[0]
    assert not any("sample good: " in line for line in faults)
    assert lines[-2].startswith("1 different audio,")
    assert lines[-1].endswith(counted(len(faults), "fault")) and not any(Path("/tmp/bad.json").parent.glob("bad.json"))


def test_an_audio_with_the_same_prompt_again_is_a_fault_and_with_another_is_not(tmp_path, records, verify):
    clips = [Path(record["audios"][0]["path"]) for record in records]
    copy = tmp_path / "copy.flac"
    soundfile.write(copy, soundfile.read(clips[2], dtype="int16")[0], 16_000)
    more = [record("copy", copy), record("swapped", clips[1], clips[0])]
    write_manifest(tmp_path / "more.jsonl", records + more)
    pack(tmp_path / "more.jsonl", tmp_path / "more")
    status, lines = verify(tmp_path / "more")
    faults = [line for line in lines if "the same audio" in line]
    assert status == 1 and lines[-1].endswith("1 fault")
    assert f"sample copy: the same audio and prompt as sample {key('voice/2.take')}; remove" in faults[0]
    assert "10 different audios, 1 of them with several prompts; 1 sample is a copy" in lines


def test_held_out_audio_is_found_in_shards_benchmarks_and_manifests(tmp_path, shards, verify, records):
    other, held = noise(tmp_path / "other.wav", 30), Path(records[1]["audios"][0]["path"])
    write_manifest(tmp_path / "eval.jsonl", [record("new", other), record("held", other, held)])
    pack(tmp_path / "eval.jsonl", tmp_path / "eval_shards")
    row = {"neutral": "Who?", "gt": "her", "faithful": "She.", "adversarial": "He.", "irrelevant": "It rains."}
    noise(tmp_path / "benchmark/voice/audio/held.wav", 4)
    noise(tmp_path / "benchmark/voice/audio/new.wav", 31)
    rows = [{"audio": f"audio/{name}.wav", **row} for name in ("new", "held", "held")]
    (tmp_path / "benchmark/voice/voice.json").write_text(json.dumps(rows))

    assert verify(shards, "--against", tmp_path / "eval.jsonl", tmp_path / "benchmark")[0] == 1
    for path, name, sample, count in [
        (tmp_path / "eval.jsonl", "held", "voice/1.take", 2),
        (tmp_path / "eval_shards", "held", "voice/1.take", 2),
        (tmp_path / "benchmark", "voice/1", "voice/4.take", 2),
    ]:
        status, lines = verify(shards, "--against", path)
        faults = [line for line in lines if "held out" in line]
        # `both` has the clip among others.
        expected = [sample, "both"] if sample == "voice/1.take" else [sample]
        assert status == 1 and f"compared with {count} audios of {path}" in lines
        assert [line.split("sample ")[1] for line in faults] == [
            f"{key(name_of)}: its audio is held out, it is {name} of {path}" for name_of in expected
        ]
    write_manifest(tmp_path / "fine.jsonl", [record("new", other)])
    assert verify(shards, "--against", tmp_path / "fine.jsonl")[0] == 0


def test_held_out_audio_that_cannot_be_compared_is_a_fault(tmp_path, shards, verify, capsys):
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    clips = [record("broken", tmp_path / "broken.wav"), record("fine", noise(tmp_path / "fine.wav", 30))]
    write_manifest(tmp_path / "eval.jsonl", clips)
    status, lines = verify(shards, "--against", tmp_path / "eval.jsonl")
    assert status == 1 and f"{tmp_path / 'eval.jsonl'}, broken: it cannot be compared" in lines[0]
    assert cli.main(["prep", "verify", str(shards), "--against", str(tmp_path / "absent")]) == 2
    assert "there is no such folder or file" in capsys.readouterr().err


def test_a_file_in_the_place_of_a_folder_of_shards_is_named(tmp_path, capsys):
    (tmp_path / "all.jsonl").write_text("{}")
    assert cli.main(["prep", "verify", str(tmp_path / "all.jsonl")]) == 2
    assert "name a folder that `caad-ds prep pack` wrote" in capsys.readouterr().err


def test_every_record_of_the_manifest_is_accounted_for(tmp_path, records, verify):
    Path(records[3]["audios"][0]["path"]).write_bytes(b"no audio")
    Path(records[6]["audios"][0]["path"]).unlink()
    manifest, out = tmp_path / "m.jsonl", tmp_path / "shards"
    write_manifest(manifest, records)
    pack(manifest, out)
    listed = next(path for path in tmp_path.rglob("*rejected.jsonl"))
    assert verify(out, "--manifest", manifest)[0] == 0

    rows = read(listed)
    listed.write_text(json.dumps(rows[0]) + "\n")
    status, lines = verify(out, "--manifest", manifest)
    assert status == 1 and f"{listed}: it lists 1 record, the index counts 2" in lines
    assert f"{manifest}, record {rows[1]['id']}: it is neither packed nor rejected" in lines

    listed.write_text(
        "".join(json.dumps({**row, "id": name}) + "\n" for row, name in zip(rows, ["both", rows[1]["id"]]))
    )
    status, lines = verify(out, "--manifest", manifest)
    assert status == 1 and f"{manifest}, record both: it is packed and on the list of rejected records as well" in lines

    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(tmp_path / "other.jsonl", [r for r in records if r["id"] != "both"])
    status, lines = verify(out, "--manifest", tmp_path / "other.jsonl")
    assert status == 1 and any("it is not the manifest that was packed" in line for line in lines)
    assert f"{out}: sample both is not in {tmp_path / 'other.jsonl'}" in lines
    assert any("9 records, but 8 samples are packed and 2 records" in line for line in lines)


def test_many_faults_are_counted_by_kind_and_all_are_in_a_file(tmp_path, verify):
    rows = [record(f"clip-{k}", noise(tmp_path / f"{k}.wav", k)) for k in range(25)]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    pack(tmp_path / "manifest.jsonl", tmp_path / "shards")
    edit_index(tmp_path / "shards", lambda content: [each.update(pcm="0" * 64) for each in samples_of(content)])
    status, lines = verify(tmp_path / "shards")
    file = tmp_path / "shards" / "index.faults.txt"
    assert status == 1 and lines[0] == f"25 faults (all in {file}):"
    assert lines[1] == "  25 its audio is not what was packed" and lines[2] == "for example:"
    assert lines[3].startswith(f"  {tmp_path}") and "sample clip-0: its audio is not what" in lines[3]
    assert len(lines) < 30 and lines[-1].endswith(", 25 faults")
    assert len(file.read_text().splitlines()) == 25
    shutil.rmtree(tmp_path / "shards")
    pack(tmp_path / "manifest.jsonl", tmp_path / "shards")
    file.touch()
    assert verify(tmp_path / "shards")[0] == 0 and not file.exists(), "no list of faults that are gone"


def samples_of(content: dict) -> list[dict]:
    """The entries of an index."""
    return [sample for shard in content["shards"] for sample in shard["samples"]]
