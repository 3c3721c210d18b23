"""`prep verify` of a teacher cache: each kind of damage is named with its sample, dropped, and can be filled again."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from caad_ds import cli
from caad_ds.distill.teacher_cache.cache_store import Store
from caad_ds.distill.teacher_cache.head_file import HEAD, read_head, write_head
from caad_ds.distill.teacher_cache.key import FORM, PRECISION, write_key
from caad_ds.distill.teacher_cache.row_layout import Layout
from caad_ds.distill.teacher_cache.segments import SegmentWriter, read_segments
from caad_ds.loss.head import LMHead
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import sole_writer
from caad_ds.utils.formatting import counted
from data_prep.common.manifest import write_manifest
from data_prep.pack.pack import pack

LAYOUT = Layout("pair", 8, "bf16")
KEYS = [f"s{number}" for number in range(6)]
ROWS = {key: 3 + number for number, key in enumerate(KEYS)}
TURN = {"role": "user", "content": "<start_audio><|AUDIO|><end_audio>\nWho speaks?"}


def parts(key):
    """The rows of a sample, other ones for each."""
    torch.manual_seed(KEYS.index(key))
    return [torch.randn(tensor.shape).to(tensor.dtype) for tensor in LAYOUT.empty(ROWS[key])]


def fill(folder, keys, writer="00000"):
    """One more segment with the rows of these samples."""
    segments = SegmentWriter(folder, writer)
    for key in keys:
        segments.add(key, f"content of {key}", ROWS[key], parts(key))
    return segments.finish()


@pytest.fixture
def cache(tmp_path):
    """Two segments of three samples, and one that cannot be used."""
    folder = tmp_path / "cache"
    folder.mkdir()
    write_key(folder, {FORM: "pair", PRECISION: "bf16"}, {"width": 8, "positions": None})
    write_head(folder, LMHead(torch.randn(11, 8)))
    fill(folder, KEYS[:3])
    segments = SegmentWriter(folder, "00001")
    for key in KEYS[3:]:
        segments.add(key, f"content of {key}", ROWS[key], parts(key))
    segments.note_unusable("broken")
    segments.finish()
    return folder


@pytest.fixture
def verify(cache, capsys):
    """Runs the command; returns its exit status and the lines that it printed."""

    def run(*arguments):
        capsys.readouterr()
        status = cli.main(["prep", "verify", str(cache), *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out.splitlines() or said.err.splitlines()[-1:]

    return run


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_sound_cache_has_no_fault_and_its_figures_are_reported(cache, verify):
    status, lines = verify()
    size = sum(path.stat().st_size for path in cache.glob("*.rows"))
    rows = sum(ROWS.values())
    assert status == 0 and size == rows * LAYOUT.bytes_per_row
    assert lines == [
        f"6 sound samples with {rows} rows of 8 values, form pair, bf16; {size} bytes (1.7e-06 GB)",
        "1 sample noted as unusable, without rows",
        f"{cache}: 2 segments, 0 faults",
    ]


DAMAGE = {
    "a flipped byte": (
        lambda c: flip(c / "00000-000000.rows", ROWS["s0"] * LAYOUT.bytes_per_row + 5),
        ["00000-000000.rows, sample s1: its bytes have another sha256"], ["s1"],
    ),
    "a truncated segment": (
        lambda c: (c / "00001-000000.rows").write_bytes((c / "00001-000000.rows").read_bytes()[:-1]),
        ["00001-000000.rows: it has", "00001-000000.rows, sample s5: its rows end at byte"], ["s5"],
    ),
    "a longer segment": (
        lambda c: (c / "00001-000000.rows").write_bytes((c / "00001-000000.rows").read_bytes() + b"x"),
        ["00001-000000.rows: it has"], [],
    ),
    "a missing segment": (
        lambda c: (c / "00000-000000.rows").unlink(), ["00000-000000.rows: it is missing"], KEYS[:3],
    ),
    "an index that is cut": (
        lambda c: (c / "00000-000000.json").write_text('{"bytes": 1, "sam'),
        ["00000-000000.json: cannot be read as JSON"], KEYS[:3],
    ),
    "an index with other types": (
        lambda c: edit(c / "00000-000000.json", lambda v: v["samples"][1].__setitem__(2, "5")),
        ["00000-000000.json: it is not the index"], KEYS[:3],
    ),
    "rows that overlap": (
        lambda c: edit(c / "00000-000000.json", lambda v: v["samples"].append(["s9", "c9", *v["samples"][1][2:]])),
        ["sample s9: its rows overlap those of another sample"], [],
    ),
    "a content twice": (
        lambda c: edit(
            c / "00001-000000.json", lambda v: v["samples"][1].__setitem__(1, v["samples"][0][1])
        ),
        ["sample s4: the segment has its content twice"], ["s4"],
    ),
    "too many rows": (
        lambda c: edit(c / "00000-000000.json", lambda v: v["samples"][2].__setitem__(3, 10**12)),
        ["sample s2: its rows end at byte"], ["s2"],
    ),
    "what a killed filling has left": (
        lambda c: [(c / n).write_bytes(b"x") for n in ("00007-000000.rows", "00000-000001.rows.partial")],
        ["00000-000001.rows.partial: a partial file", "00007-000000.rows: rows without an index"], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_dropped_and_filled_again(name, cache, verify):
    damage, faults, lost = DAMAGE[name]
    damage(cache)
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    status, lines = verify()
    assert status == 1 and lines[-1] == f"{cache}: 2 segments, {len(faults)} fault{'s' * (len(faults) > 1)}"
    assert all(any(fault in line for line in lines) for fault in faults)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    status, lines = verify("--drop-damaged")
    dropped = 0 if name.startswith("an index") else len(lost) + (name == "rows that overlap")
    removed = int(lost == KEYS[:3])
    message = f"dropped: {counted(dropped, 'damaged sample')}, {counted(removed, 'segment')} of no use; "
    assert status == 1 and any(line.startswith(message) for line in lines)
    assert verify()[0] == 0
    store = Store(cache, LAYOUT)
    assert store.lacks((key, "") for key in KEYS) == lost
    if lost:
        fill(cache, lost)
    assert verify()[0] == 0
    store = Store(cache, LAYOUT)
    assert not store.lacks((key, "") for key in KEYS)
    assert not any(store.check(s.name, e) for s in read_segments(cache) for e in s.entries if e.content)


def _fails(monkeypatch, cache, name):
    """Let every read of a file fail as that of a broken disk does."""
    opened, read_bytes = os.open, Path.read_bytes

    def fail(path):
        if Path(path) == cache / name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    def opening(path, *arguments, **keys):
        fail(path)
        return opened(path, *arguments, **keys)

    def reading(path):
        fail(path)
        return read_bytes(path)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(Path, "read_bytes", reading)


@pytest.mark.parametrize(
    ("name", "faults", "kept"),
    [
        ("00000-000000.json", ["00000-000000.json: cannot be read"], "0 samples, 1 whole segment"),
        ("00000-000000.rows", [f"sample {k}: it cannot be read" for k in KEYS[:3]], "3 samples, 0 whole segments"),
    ],
    ids=["index", "rows"],
)
@pytest.mark.parametrize("damaged", [False, True], ids=["alone", "beside damage"])
def test_what_cannot_be_read_is_reported_and_never_dropped(name, faults, kept, damaged, cache, verify, monkeypatch):
    if damaged:
        flip(cache / "00001-000000.rows", 0)
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    with monkeypatch.context() as patch:
        _fails(patch, cache, name)
        for arguments in ([], ["--drop-damaged"]):
            status, lines = verify(*arguments)
            assert status == 1 and all(any(fault in line for line in lines) for fault in faults)
            assert "(Input/output error)" in lines[0]
            assert damaged or not any("run it again with --drop-damaged" in line for line in lines)
            assert any(line.startswith(f"not read, and kept: {kept}; check permissions") for line in lines)
        assert any(line.startswith(f"dropped: {counted(int(damaged), 'damaged sample')}, 0 segments") for line in lines)
    changed = {"00001-000000.json"} if damaged else set()
    assert {path.name for path in cache.iterdir() if path.read_bytes() != before[path.name]} == changed
    assert Store(cache, LAYOUT).lacks((key, "") for key in KEYS) == (["s3"] if damaged else [])
    assert verify()[0] == 0


@pytest.mark.parametrize("suffix", [".json", ".rows"])
def test_a_folder_in_place_of_a_file_of_a_segment(suffix, cache, verify):
    """Nothing of the segment is dropped: what is there is not what was written, and that may be elsewhere."""
    path = cache / f"00000-000000{suffix}"
    path.unlink()
    path.mkdir()
    other = next(each for each in cache.glob("00000-000000.*") if each != path)
    before = other.read_bytes()
    for arguments in ([], ["--drop-damaged"]):
        status, lines = verify(*arguments)
        assert status == 1 and f"{path}: cannot be read (" in lines[0]
        assert any("not read, and kept: 0 samples, 1 whole segment;" in line for line in lines)
    assert path.is_dir() and other.read_bytes() == before


def test_damaged_samples_go_and_unread_ones_stay_in_one_segment(cache, verify, monkeypatch):
    flip(cache / "00000-000000.rows", 0)
    check = Store.check

    def failing(self, name, entry):
        if entry.key == "s1":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return check(self, name, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "check", failing)
        status, lines = verify("--drop-damaged")
    assert status == 1 and any(line.startswith("dropped: 1 damaged sample, 0 segments") for line in lines)
    assert [entry.key for entry in read_segments(cache)[0].entries] == ["s1", "s2"]
    assert verify()[0] == 0


def test_a_run_does_not_advise_to_drop_what_cannot_be_read(cache):
    (cache / "00000-000000.json").unlink()
    (cache / "00000-000000.json").mkdir()
    with pytest.raises(
        UserError, match=r"00000-000000\.json: cannot be read \(Is a directory\); check its permissions"
    ):
        read_segments(cache)


def test_a_file_of_something_else_is_named_and_kept(cache, verify):
    (cache / "notes.txt").write_text("mine")
    for arguments in ([], ["--drop-damaged"]):
        status, lines = verify(*arguments)
        assert status == 1 and lines[0] == f"{cache}/notes.txt: it is no file of a teacher cache; move it elsewhere"
    assert (cache / "notes.txt").exists()


def test_a_sample_that_two_ranks_have_stored_is_reported_and_no_fault(cache, verify):
    fill(cache, ["s1"], writer="00002")
    status, lines = verify()
    assert status == 0 and "1 sample is in two segments; the first is read" in lines


def test_the_head_is_compared_too(cache, verify):
    flip(cache / HEAD, -3)
    status, lines = verify()
    assert status == 1 and f"{cache / HEAD}" in lines[0] and "another sha256" in lines[0]
    with pytest.raises(UserError, match="another sha256"):
        read_head(cache)
    (cache / HEAD).unlink()
    assert verify()[1][0] == f"{cache / HEAD}: it is missing; fill the cache again, which writes it"
    write_head(cache, LMHead(torch.randn(11, 9)))
    assert "takes 9 values, the cache's rows have 8" in verify()[1][0]


def test_samples_of_shards_without_rows_are_named(cache, verify, tone, tmp_path):
    rows = [
        {"id": key, "audios": [{"path": str(tone(f"{n}.wav", 0.2 + n / 10))}], "messages": [TURN], "response": "Yes."}
        for n, key in enumerate([*KEYS, "broken", "new"])
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    pack(tmp_path / "m.jsonl", tmp_path / "shards")
    status, lines = verify("--covers", tmp_path / "shards")
    assert status == 1 and lines[0] == f"{tmp_path / 'shards'}, sample new: the cache has no sound rows of it"
    remedy = "`caad-ds cache-teacher --config FILE` computes those of the others"
    assert f"{tmp_path / 'shards'}: 7 of 8 samples have rows; {remedy}" in lines
    assert lines[-1].endswith("2 segments, 1 fault")
    flip(cache / "00000-000000.rows", 0)
    status, lines = verify("--covers", tmp_path / "shards")
    assert [line for line in lines if "no sound rows" in line and "sample s0:" in line]


def test_the_list_of_unusable_samples_is_no_fault(cache, verify):
    (cache / "unusable.jsonl").touch()
    (cache / "parts.json").touch()
    assert verify()[0] == 0


def test_several_processes_find_the_same(cache, verify):
    flip(cache / "00001-000000.rows", 0)
    assert verify("--workers", "2") == verify()


@pytest.mark.parametrize(
    "arguments", [["--manifest", "m"], ["--against", "a"], ["--disjoint"], ["--overview", "o.html"]], ids=lambda a: a[0]
)
def test_options_of_shards_are_refused(arguments, cache, verify):
    status, [line] = verify(*arguments)
    assert status == 2 and f"{arguments[0]}: it is for shards, and {cache} is a teacher cache" in line


@pytest.mark.parametrize("arguments", [["--covers", "a"], ["--drop-damaged"]], ids=lambda a: a[0])
def test_options_of_a_cache_are_refused_for_shards(arguments, tmp_path, capsys):
    assert cli.main(["prep", "verify", str(tmp_path), *arguments]) == 2
    assert f"{arguments[0]}: it is for a teacher cache, and {tmp_path} has no cache.json" in capsys.readouterr().err


def test_nothing_is_dropped_while_another_fills(cache, verify):
    flip(cache / "00000-000000.rows", 0)
    with sole_writer(cache.resolve(), inside=True):
        assert verify()[0] == 1
        status, [line] = verify("--drop-damaged")
        assert status == 2 and "another process is writing" in line
    assert len(read_segments(cache)[0].entries) == 3


def test_a_key_that_says_no_layout_is_refused(cache, verify):
    write_key(cache, {FORM: "pair"}, {"width": 8, "positions": None})
    status, [line] = verify()
    assert status == 2 and "it has no valid layout of the cache's rows" in line
