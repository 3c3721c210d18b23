"""A manifest of short tones."""

from pathlib import Path

import pytest

from data_prep.common.manifest import write_manifest
from tests.data.tones import record, tone


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Twelve records: several formats and rates, ids with dots and slashes, one with two audios."""
    records = []
    for number in range(12):
        path = tmp_path / "audio" / f"{number}.{('wav', 'ogg', 'flac')[number % 3]}"
        tone(path, 200 + 50 * number, 0.1 + 0.02 * number, (22_050, 16_000, 44_100)[number % 3], 1 + number % 2)
        records.append(record(f"voice/{number}.take", path))
    records.append(record("two", tmp_path / "audio/0.wav", tmp_path / "audio/1.ogg"))
    path = tmp_path / "answered.jsonl"
    write_manifest(path, records)
    return path
