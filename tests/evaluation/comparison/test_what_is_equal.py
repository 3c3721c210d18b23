"""Runs that are judged by different rules, or summed up differently, do not stand side by side."""

from pathlib import Path

import pytest

from caad_ds.evaluation.comparison.run_folders import _checked
from caad_ds.utils.errors import UserError

OLD = {"name": "one", "benchmark": "rooms", "benchmark_sha256": "0", "model_sha256": "1"}
NEW = OLD | {"rule": "option", "figures": "accuracy"}
OTHER = {"name": "two", "model_sha256": "2"}


@pytest.mark.parametrize(("setup", "what"), [
    (NEW | OTHER | {"rule": "label"}, "rules of matching"), (NEW | OTHER | {"figures": "yes_no"}, "figures"),
    (OLD | OTHER, "rules of matching"),
])  # fmt: skip
def test_rule_and_figures_must_be_equal(setup, what):
    with pytest.raises(UserError, match=f"evaluated on different {what}"):
        _checked(Path("two"), setup, {Path("one"): NEW})


@pytest.mark.parametrize("setup", [OLD, NEW])
def test_of_one_rule_they_are_compared(setup):
    assert _checked(Path("two"), setup | OTHER, {Path("one"): setup}) == setup | OTHER
