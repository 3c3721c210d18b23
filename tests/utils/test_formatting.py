"""Counts as they are printed."""

import pytest

from caad_ds.utils.formatting import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rows were left out"), (1, "1 row was left out"), (2, "2 rows were left out")]
)
def test_one_is_singular(number, text):
    assert counted(number, "row was left out", "rows were left out") == text
    assert counted(number, "record") == f"{number} record{'s' * (number != 1)}"
