"""benchmarks/data_prep.py prints its tables."""

import re

import pytest

from benchmarks import data_prep


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        pytest.param("pack", list(data_prep.INPUTS), marks=pytest.mark.slow),
        ("read", ["indexed, in random order", "stream, buffer of 100"]),
        pytest.param("annotate", ["duration", "loudness", "pitch", "snr", "speaking_rate"], marks=pytest.mark.slow),
    ],
)
def test_a_table_has_a_speed_for_each_row(table, rows, monkeypatch, capsys):
    monkeypatch.setattr(data_prep, "FILES", 2)
    data_prep.main(["--minutes", "0.2", "--spoken", "0.08", "--repeats", "1", "--only", table])
    found = dict(re.findall(r"^\| ([^|]+) \| ([\d,]+) \|", capsys.readouterr().out, re.MULTILINE))
    assert list(found) == rows
    assert all(int(speed.replace(",", "")) > 1 for speed in found.values())
