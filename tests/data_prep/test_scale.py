"""Memory does not grow with the corpus: no step holds more of a record than its id."""

import pytest

from caad_ds.data.shard_index import IndexFile, SampleEntry, Shard, ShardIndex
from data_prep import describe, split
from data_prep.ingest import ingest
from data_prep.pack import pack
from tests import memory

PER_RECORD = 500  # bytes; a record as a dictionary takes thousands
SMALL, LARGE = 1200, 2700  # both beyond the block size in which files are read


@pytest.fixture
def peak(tmp_path, write_lines, tone, prep, instructions):
    """Peak of Python's allocations in bytes while a step runs over so many records."""
    tone("a.wav", 0.05)
    (tmp_path / "rules.yaml").write_text("[{name: all, hash_of: gender}]")

    def measure(step: str, count: int, attempt: int) -> int:
        rows = ({"id": f"{number:09d}", "audio": "a.wav", "gender": "male", "x": "y" * 900} for number in range(count))
        listing, manifest = write_lines(f"{count}.jsonl", rows), tmp_path / f"{count}-{attempt}.jsonl"
        arguments = {
            "ingest": (ingest, "jsonl", "--root", listing, "--out", manifest),
            "describe": (
                describe,
                "--manifest",
                manifest,
                "--out",
                tmp_path / f"{count}-{attempt}-described.jsonl",
                "--instructions",
                instructions,
            ),
            "split": (
                split,
                "--manifest",
                manifest,
                "--out",
                tmp_path / f"{count}-{attempt}",
                "--rules",
                tmp_path / "rules.yaml",
            ),
        }
        if step != "ingest":
            prep(*arguments["ingest"])
        with memory.traced():
            prep(*arguments[step])
            return memory.peak()

    return measure


@pytest.mark.parametrize(
    "step", [*(pytest.param(step, marks=pytest.mark.slow) for step in ("ingest", "describe")), "split"]
)
def test_a_larger_corpus_takes_an_id_per_record_more(step, peak):
    def small_growth(attempt: int) -> bool:
        return peak(step, LARGE, attempt) - peak(step, SMALL, attempt) < PER_RECORD * (LARGE - SMALL)

    assert memory.in_one_attempt(small_growth)


@pytest.fixture
def peak_of_pack(tmp_path, write_lines, tone, prep):
    """Peak of Python's allocations in bytes while so many records are packed into shards of some 60 each."""
    tone("a.wav", 0.05)
    answered = {"audios": [{"path": "a.wav"}], "messages": [{"role": "user", "content": "<|AUDIO|>" + "y" * 7200}]}

    def measure(count: int, attempt: int) -> int:
        rows = ({"id": f"{number:09d}", "response": "Yes.", **answered} for number in range(count))
        manifest = write_lines(f"{count}.jsonl", rows)
        with memory.traced():
            prep(pack, "--manifest", manifest, "--out", tmp_path / f"{count}-{attempt}", "--shard-bytes", 700_000)
            return memory.peak()

    return measure


def test_packing_a_larger_corpus_takes_an_index_entry_per_record_more(peak_of_pack):
    small, large = SMALL // 6, LARGE // 6

    def small_growth(attempt: int) -> bool:
        return peak_of_pack(large, attempt) - peak_of_pack(small, attempt) < PER_RECORD * (large - small)

    assert memory.in_one_attempt(small_growth)


def shard(number: int, count: int) -> Shard:
    """A shard of which there is no file."""
    entries = [SampleEntry(f"{number:06d}-{n:06d}", n, 1, 7.5 + n / 7, 1000 + n, f"{n:064x}") for n in range(count)]
    return Shard(f"train-{number:06d}.tar", "0" * 64, count, 0.0, entries)


def test_an_index_takes_a_fraction_of_what_its_entries_take_as_objects(tmp_path):
    shards, count = 40, 500
    entries = shards * count

    def small(attempt: int) -> bool:
        folder = tmp_path / f"{attempt}"
        folder.mkdir()
        with memory.traced():
            file = IndexFile(1, "", 1, 0, [shard(number, count) for number in range(shards)])
            built = memory.reset_peak()
            file.write(folder / "index.json")
            writing = memory.peak() - built
            start = memory.reset_peak()
            index = ShardIndex.load(folder, check_files=False)
            loaded, loading = memory.held() - start, memory.peak() - start
        assert len(index) == entries and index.file == file
        # Written a shard at a time, not as the whole text; read as the text, in bytes and in characters, and entries.
        return built < 200 * entries and writing < 4000 * count and loaded < 200 * entries and loading < 500 * entries

    assert memory.in_one_attempt(small)
