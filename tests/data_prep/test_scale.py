"""Memory does not grow with the corpus: no step holds more of a record than its id."""

import tracemalloc

import pytest

from data_prep import describe, ingest, split

PER_RECORD = 500  # bytes; a record as a dictionary takes thousands
SMALL, LARGE = 1200, 2700  # both beyond the block size in which files are read


@pytest.fixture
def peak(tmp_path, write_lines, tone, prep, instructions):
    """Peak of Python's allocations in bytes while a step runs over so many records."""
    tone("a.wav", 0.01)
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


@pytest.mark.parametrize("step", ["ingest", "describe", "split"])
def test_a_larger_corpus_takes_an_id_per_record_more(step, peak):
    assert peak(step, LARGE) - peak(step, SMALL) < PER_RECORD * (LARGE - SMALL)
