"""Segments and the store: stored rows are found again bit for bit, and nothing else is."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caad_ds.data.stored_states import StoredStates
from caad_ds.distill.teacher_cache.cache_store import Store, content_of
from caad_ds.distill.teacher_cache.row_layout import Layout
from caad_ds.distill.teacher_cache.segments import (
    Entry,
    Segment,
    SegmentWriter,
    drop_entries,
    drop_unfinished,
    read_segments,
    write_index,
)
from caad_ds.utils.device import DTYPES
from caad_ds.utils.errors import UserError
from tests.root import ROOT

COUNTS = st.lists(st.integers(1, 5), min_size=1, max_size=8)


def filled_parts(layout: Layout, rows: int, seed: int) -> list[torch.Tensor]:
    """Rows of arbitrary bits, NaN among them."""
    made = np.random.default_rng(seed)
    parts = layout.empty(rows)
    for part in parts:
        part.view(torch.uint8).copy_(torch.from_numpy(made.integers(0, 256, part.nbytes, np.uint8)).view(rows, -1))
    return parts


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def stored(layout: Layout, folder: Path, counts: list[int], cuts: list[bool]) -> dict[str, list[torch.Tensor]]:
    """Write a sample per count, ending a segment after those in `cuts`; returns what was written."""
    writer, kept = SegmentWriter(folder, "00000"), {}
    for number, count in enumerate(counts):
        kept[f"c{number}"] = filled_parts(layout, count, number)
        writer.add(f"k{number}", f"c{number}", count, kept[f"c{number}"])
        if cuts[number % len(cuts)]:
            writer.finish()
    writer.finish()
    return kept


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(["pair", "contrast"]), precision=st.sampled_from(sorted(DTYPES)), width=st.integers(1, 9),
    counts=COUNTS, cuts=st.lists(st.booleans(), min_size=1, max_size=4), order=st.randoms(use_true_random=False),
)  # fmt: skip
@example(form="contrast", precision="bf16", width=1, counts=[1], cuts=[True], order=None)
def test_rows_come_back_bit_for_bit_in_any_order(form, precision, width, counts, cuts, order):
    layout = Layout(form, width, precision)
    with TemporaryDirectory() as folder:
        kept = stored(layout, Path(folder), counts, cuts)
        store = Store(Path(folder), layout)
        asked = [*kept, "unknown"]
        if order is not None:
            order.shuffle(asked)
        sizes = [len(kept[name][0]) if name in kept else 2 for name in asked]
        found = store.filled(StoredStates(asked, torch.zeros(len(asked), dtype=torch.bool)), asked, sizes)
        assert found.present.tolist() == [name in kept for name in asked]
        parts = [part for part in (found.positive, found.negative, found.scalars) if part is not None]
        assert len(parts) == (3 if form == "pair" else 2) and all(part.dtype == layout.dtype for part in parts[:-1])
        ends = np.cumsum([0, *sizes])
        for number, name in enumerate(asked):
            for part, written in zip(parts, kept.get(name, ()), strict=False):
                assert bits(part[ends[number] : ends[number + 1]]) == bits(written), name
        assert len(store) == len(kept)
        store.close()


@settings(max_examples=40, deadline=None)
@given(counts=COUNTS, needed=st.booleans(), data=st.data())
def test_no_flipped_bit_is_read(counts, needed, data):
    """Where rows are needed, damaged ones are an error; otherwise they are missing, and `take_damaged` returns them."""
    layout = Layout("pair", 3, "fp32")
    with TemporaryDirectory() as name:
        folder = Path(name)
        stored(layout, folder, counts, [False])
        [rows] = folder.glob("*.rows")
        content = bytearray(rows.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        rows.write_bytes(content)
        store = Store(folder, layout, needed)
        ends = np.cumsum([0, *counts]) * layout.bytes_per_row
        hit = int(np.searchsorted(ends, place, side="right")) - 1
        for number, count in enumerate(counts):
            asked = StoredStates([f"c{number}"], torch.zeros(1, dtype=torch.bool))
            if number != hit:
                assert store.filled(asked, [f"k{number}"], [count]).complete
                continue
            said = rf"00000-000000\.rows, sample k{hit}: its rows are damaged \(its bytes have another sha256\)"
            if needed:
                with pytest.raises(UserError, match=f"{said}; compute them with the teacher: `caad-ds"):
                    store.filled(asked, [f"k{number}"], [count])
                continue
            assert not store.filled(asked, [f"k{number}"], [count]).complete
            [(content, damage)] = store.take_damaged().items()
            assert content == f"c{hit}" and damage.segment == "00000-000000" and re.search(said, damage.fault)
            assert store.take_damaged() == {} and not store.is_sound(content, count)
            assert hit + 1 == len(counts) or store.is_sound(f"c{hit + 1}", counts[hit + 1])
        store.close()


def test_damaged_rows_are_missing_until_others_are_stored(tmp_path):
    layout = Layout("pair", 2, "fp32")
    kept = stored(layout, tmp_path, [1, 1], [False])
    [rows] = tmp_path.glob("*.rows")
    rows.write_bytes(b"\xff" + rows.read_bytes()[1:])
    store = Store(tmp_path, layout)
    assert not store.is_sound("c0", 1) and store.lacks([("k0", "")]) == []
    damaged = store.take_damaged()
    assert store.forget(damaged) == damaged and store.forget(damaged) == {}
    assert store.lacks([("k0", ""), ("k1", "")]) == ["k0"] and not store.is_sound("c0", 1)
    drop_entries(tmp_path, {"00000-000000": {"c0"}})
    assert [entry.content for segment in read_segments(tmp_path) for entry in segment.entries] == ["c1"]
    writer = SegmentWriter(tmp_path, "00000")
    writer.add("k0", "c0", 1, kept["c0"])
    store.add([writer.finish()])
    assert store.lacks([("k0", ""), ("k1", "")]) == [] and store.is_sound("c0", 1) and store.take_damaged() == {}
    store.forget(damaged)  # noted by a thread that had begun to read before: the new rows stay
    assert store.is_sound("c0", 1)


def test_rows_that_replace_damaged_ones_are_checked(tmp_path):
    """Also where the old ones had been read soundly before some of their bytes went missing."""
    layout = Layout("pair", 2, "fp32")
    kept = stored(layout, tmp_path, [1], [False])
    store = Store(tmp_path, layout)
    assert store.is_sound("c0", 1)
    os.truncate(tmp_path / "00000-000000.rows", 3)
    assert not store.is_sound("c0", 1)
    store.forget(store.take_damaged())
    writer = SegmentWriter(tmp_path, "00000")
    writer.add("k0", "c0", 1, kept["c0"])
    store.add([writer.finish()])
    rows = tmp_path / "00000-000001.rows"
    rows.write_bytes(b"\xff" + rows.read_bytes()[1:])
    assert not store.is_sound("c0", 1)


def test_two_parts_that_remove_damaged_rows_at_once(tmp_path):
    """Neither brings back what the other has removed."""
    stored(Layout("pair", 2, "fp32"), tmp_path / "cache", [1] * 8, [False])
    command = (
        "import sys, time; from pathlib import Path; from caad_ds.distill.teacher_cache import segments\n"
        "write = segments.write_index; segments.write_index = lambda *index: (time.sleep(0.4), write(*index))\n"
        "for number in sys.argv[2:]: segments.drop_entries(Path(sys.argv[1]), {'00000-000000': {'c' + number}})"
    )
    parts = [
        subprocess.Popen([sys.executable, "-c", command, str(tmp_path / "cache"), *numbers], cwd=ROOT)
        for numbers in ("024", "135")
    ]
    assert [part.wait(120) for part in parts] == [0, 0]
    [segment] = read_segments(tmp_path / "cache")
    assert [entry.content for entry in segment.entries] == ["c6", "c7"]


def test_rows_of_which_some_bytes_are_not_delivered_are_not_damaged(tmp_path, monkeypatch):
    stored(Layout("pair", 2, "fp32"), tmp_path, [2], [False])
    store, read = Store(tmp_path, Layout("pair", 2, "fp32")), os.preadv
    monkeypatch.setattr("os.preadv", lambda file, views, place: read(file, views[:1], place))
    with pytest.raises(UserError, match="its rows cannot be read"):
        store.is_sound("c0", 2)
    assert store.take_damaged() == {}
    monkeypatch.setattr("os.pread", lambda file, size, place: b"")
    [(name, entry)] = store._locations.values()
    with pytest.raises(OSError, match="bytes were not delivered"):
        store.check(name, entry)


def test_a_segment_is_there_whole_or_not_at_all(tmp_path):
    """Whatever a kill leaves of a segment, the next writer uses a new number."""
    layout = Layout("pair", 2, "fp32")
    stored(layout, tmp_path, [2, 1], [False])
    writer = SegmentWriter(tmp_path, "00000")
    writer.add("k", "c", 1, filled_parts(layout, 1, 9))
    assert len(Store(tmp_path, layout)) == 2 and len(list(tmp_path.glob("*.partial"))) == 1
    (tmp_path / "00000-000001.rows.partial").rename(tmp_path / "00000-000001.rows")  # between rows and index
    assert len(Store(tmp_path, layout)) == 2
    drop_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000-000000.json", "00000-000000.rows"]
    again = SegmentWriter(tmp_path, "00000")
    again.add("k", "c", 1, filled_parts(layout, 1, 9))
    assert again.finish().name == "00000-000001" and len(Store(tmp_path, layout)) == 3


def test_of_a_content_in_two_segments_the_first_counts(tmp_path):
    layout = Layout("contrast", 2, "fp32")
    kept = []
    for name in ("00001", "00000"):
        writer = SegmentWriter(tmp_path, name)
        kept.append(filled_parts(layout, 2, int(name) + 5))
        writer.add("k", "c", 2, kept[-1])
        writer.finish()
    for segments in (read_segments(tmp_path), read_segments(tmp_path)[::-1]):
        store = Store(tmp_path, layout)
        store._locations.clear()
        store.add(segments)
        found = store.filled(StoredStates(["c"], torch.zeros(1, dtype=torch.bool)), ["k"], [2])
        assert bits(found.positive) == bits(kept[1][0])


def test_what_is_lacking_is_counted_by_key_and_audio(tmp_path):
    write_index(tmp_path, Segment("a-000000", 0, [Entry("k", "c", 0, 1, ""), Entry("bad", "", 0, 0, "")]))
    (tmp_path / "a-000000.rows").touch()
    store = Store(tmp_path, Layout("pair", 2, "fp32"))
    assert store.lacks([("k", "x"), ("bad", "y"), ("k", "x")]) == []  # the same sample in two data sets
    assert store.lacks([("k", "x"), ("k", "z"), ("new", "x")]) == ["k", "new"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no JSON object"),
        ("{}", "it is not the index of a cache's segment"),
        ('{"bytes": "many", "samples": []}', "it is not the index"),
        ('{"bytes": 0, "samples": 3}', "it is not the index"),
        ('{"bytes": 0, "samples": [["k", "c", 0, 1]]}', "it is not the index"),
        ('{"bytes": 0, "samples": ["kcors"]}', "it is not the index"),
        ('{"bytes": 0, "samples": [["k", "c", "0", 1, "s"]]}', "it is not the index"),
        ('{"bytes": 0, "samples": [["k", "c", -8, 1, "s"]]}', "it is not the index"),
        ('{"bytes": 8, "samples": []}', "a-000000.rows: it has 0 bytes, its index says 8"),
    ],
)
def test_an_index_of_another_shape_is_named(tmp_path, content, said):
    (tmp_path / "a-000000.json").write_text(content)
    (tmp_path / "a-000000.rows").touch()
    with pytest.raises(UserError) as caught:
        read_segments(tmp_path)
    assert said in str(caught.value) and str(tmp_path / "a-000000") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_that_are_gone(tmp_path):
    stored(Layout("pair", 2, "fp32"), tmp_path, [1], [False])
    (tmp_path / "00000-000000.rows").unlink()
    with pytest.raises(UserError, match=r"00000-000000\.rows: it is missing; run `caad-ds prep verify"):
        read_segments(tmp_path)


def test_an_index_that_says_more_than_the_file_has(tmp_path):
    layout = Layout("pair", 2, "fp32")
    stored(layout, tmp_path, [1], [False])
    index = tmp_path / "00000-000000.json"
    values = json.loads(index.read_text())
    values["samples"][0][2] = 7
    index.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"sample k0: its rows are damaged \(7 bytes are missing\)"):
        Store(tmp_path, layout, needed=True).filled(StoredStates(["c0"], torch.zeros(1, dtype=torch.bool)), ["k0"], [1])
    with pytest.raises(UserError, match="it has 1 rows for 2 tokens"):
        Store(tmp_path, layout, needed=True).filled(StoredStates(["c0"], torch.zeros(1, dtype=torch.bool)), ["k0"], [2])


def sample(**changes) -> SimpleNamespace:
    record = {"messages": [{"role": "user", "content": "What is it?"}], "audios": [{"text": "a"}], "metadata": {"n": 1}}
    wave = np.arange(8, dtype=np.float32)
    made = {"key": "k", "record": record, "waveforms": [wave, wave[:3]]} | changes
    return SimpleNamespace(**made)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (lambda: (sample(key="other"), [1, 2]), False),
        (lambda: (sample(record=sample().record | {"metadata": {}}), [1, 2]), True),
        (lambda: (sample(), [1, 2, 3]), False),
        (lambda: (sample(), [2, 1]), False),
        (lambda: (sample(record=sample().record | {"messages": []}), [1, 2]), False),
        (lambda: (sample(record=sample().record | {"audios": [{"text": "b"}]}), [1, 2]), False),
        (lambda: (sample(waveforms=sample().waveforms[::-1]), [1, 2]), False),
        (lambda: (sample(waveforms=[np.concatenate(sample().waveforms)]), [1, 2]), False),
        (lambda: (sample(waveforms=[np.nextafter(w, np.float32(9)) for w in sample().waveforms]), [1, 2]), False),
    ],
    ids=["key", "metadata", "longer answer", "answer", "messages", "transcript", "order", "joined", "last bit"],
)
def test_a_content_is_the_key_the_text_the_audio_and_the_answer(changed: Callable, same: bool):
    assert (content_of(*changed()) == content_of(sample(), [1, 2])) == same


KILLED = """
import os, sys, signal
from pathlib import Path
import torch
from caad_ds.distill.teacher_cache import segments
at, folder = sys.argv[1], Path(sys.argv[2])
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
writer = segments.SegmentWriter(folder, "00000")
writer.add("k0", "c0", 1, [torch.ones(1, 4)])
writer.finish()
if at == "rows":
    write = os.pwrite
    os.pwrite = lambda file, data, place: (write(file, data[:5], place), die())
if at == "name":
    Path.replace = die
if at == "index":
    segments.write_index = die
writer.add("k1", "c1", 1, [torch.ones(1, 4)])
writer.finish()
"""


@pytest.mark.parametrize("at", ["rows", "name", "index"])
def test_a_writer_that_is_killed_inside_a_write(tmp_path, at):
    done = subprocess.run([sys.executable, "-c", KILLED, at, str(tmp_path)], env=os.environ, check=False)
    assert done.returncode == -9
    [segment] = read_segments(tmp_path)
    assert [entry.key for entry in segment.entries] == ["k0"]
    assert len(list(tmp_path.iterdir())) == 3
    drop_unfinished(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_another_thread_opens_at_the_same_time_is_not_closed_while_it_is_read(tmp_path):
    layout = Layout("pair", 3, "fp32")
    kept = stored(layout, tmp_path, [2], [True])
    store = Store(tmp_path, layout)
    store._open = store._open.__wrapped__  # of two that miss at once one has a file that nothing else holds
    found = store.filled(StoredStates(["c0"], torch.zeros(1, dtype=torch.bool)), ["k0"], [2])
    assert bits(found.positive) == bits(kept["c0"][0])
