"""Memory does not grow with the corpus: no step holds more of a record than its id."""

import tracemalloc

import pytest

from caad_ds.data.index import IndexFile, SampleEntry, Shard, ShardIndex
from data_prep import describe, split
from data_prep.ingest import ingest
from data_prep.pack import pack

PER_RECORD = 500  # bytes; a record as a dictionary takes thousands
SMALL, LARGE = 1200, 2700  # both beyond the block size in which files are read


@pytest.fixture
def peak(tmp_path, write_lines, tone, prep, instructions):
    """Peak of Python's allocations in bytes while a step runs over so many records."""
    tone("a.wav", 0.05)
    (tmp_path / "rules.yaml").write_text("[{name: all, hash_of: gender}]")

    def measure(step: str, count: int) -> int:
        rows = ({"id": f"{number:09d}", "audio": "a.wav", "gender": "male", "x": "y" * 900} for number in range(count))
        listing, manifest = write_lines(f"{count}.jsonl", rows), tmp_path / f"{count}-manifest.jsonl"
        arguments = {
            "ingest": (ingest, "jsonl", "--root", listing, "--out", manifest),
            "describe": (
                describe,
                "--manifest",
                manifest,
                "--out",
                tmp_path / "d.jsonl",
                "--instructions",
                instructions,
            ),
            "split": (split, "--manifest", manifest, "--out", tmp_path / "s", "--rules", tmp_path / "rules.yaml"),
        }
        if step != "ingest":
            prep(*arguments["ingest"])
        tracemalloc.start()
        prep(*arguments[step])
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    return measure


@pytest.mark.parametrize(
    "step", [*(pytest.param(step, marks=pytest.mark.slow) for step in ("ingest", "describe")), "split"]
)
def test_a_larger_corpus_takes_an_id_per_record_more(step, peak):
    assert peak(step, LARGE) - peak(step, SMALL) < PER_RECORD * (LARGE - SMALL)


@pytest.fixture
def peak_of_pack(tmp_path, write_lines, tone, prep):
    """Peak of Python's allocations in bytes while so many records are packed into shards of some 60 each."""
    tone("a.wav", 0.05)
    answered = {"audios": [{"path": "a.wav"}], "messages": [{"role": "user", "content": "<|AUDIO|>" + "y" * 7200}]}

    def measure(count: int) -> int:
        rows = ({"id": f"{number:09d}", "response": "Yes.", **answered} for number in range(count))
        manifest = write_lines(f"{count}.jsonl", rows)
        tracemalloc.start()
        prep(pack, "--manifest", manifest, "--out", tmp_path / f"{count}", "--shard-bytes", 700_000)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    return measure


def test_packing_a_larger_corpus_takes_an_index_entry_per_record_more(peak_of_pack):
    small, large = SMALL // 6, LARGE // 6
    grown = (peak_of_pack(large) - peak_of_pack(small)) / (large - small)
    assert grown < PER_RECORD, grown


def shard(number: int, count: int) -> Shard:
    """A shard of which there is no file."""
    entries = [SampleEntry(f"{number:06d}-{n:06d}", n, 1, 7.5 + n / 7, 1000 + n, f"{n:064x}") for n in range(count)]
    return Shard(f"train-{number:06d}.tar", "0" * 64, count, 0.0, entries)


def test_an_index_takes_a_fraction_of_what_its_entries_take_as_objects(tmp_path):
    shards, count = 40, 500
    tracemalloc.start()
    file = IndexFile(1, "", 1, 0, [shard(number, count) for number in range(shards)])
    held, _ = tracemalloc.get_traced_memory()
    assert held < 200 * shards * count
    tracemalloc.reset_peak()
    file.write(tmp_path / "index.json")
    assert tracemalloc.get_traced_memory()[1] - held < 4000 * count  # a shard at a time, not the whole text
    start, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    index = ShardIndex.load(tmp_path, check_files=False)
    end, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == shards * count and index.file == file
    assert end - start < 200 * len(index)
    assert highest - start < 500 * len(index)  # the text, as bytes and as characters, and the entries
