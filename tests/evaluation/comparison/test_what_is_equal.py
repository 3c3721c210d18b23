"""Runs that were scored by different rules or figures are not compared."""

import json
from pathlib import Path

import pytest

from caad_ds.evaluation.comparison.compare import COMPARED_BY
from caad_ds.evaluation.comparison.group_metrics import compare_groups
from caad_ds.evaluation.comparison.run_folders import _checked, read_runs
from caad_ds.evaluation.result_kinds.group_metrics import OF_YES_NO
from caad_ds.evaluation.result_kinds.result_kind import RESULT_KINDS
from caad_ds.evaluation.scoring.matching import VERSION
from caad_ds.evaluation.tables_and_plots import comparison_plots
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


def shares_run(folder, figures, names, **more):
    """A finished run folder of yes-no questions in these groups, every second one right, of a made-up model."""
    lines = [
        {"id": f"{name}{k}", "condition": None, "subset": name, "gt": "no", "prediction": "No", "clips": [f"{name}{k}"],
         "right": k % 2 == 0, "strict": True, "option": True, "lenient": True, **more}
        for name in names for k in range(8)
    ]  # fmt: skip
    setup = {"name": folder.name, "benchmark": "rooms", "benchmark_sha256": "0", "model_sha256": folder.name}
    setup |= {"figures": figures, "rule": "label", "max_new_tokens": 2, "dtype": "float32"}
    scores = {"name": folder.name, "setup": setup, "rejected": [], "limited": False, "matching": VERSION}
    folder.mkdir()
    (folder / "setup.json").write_text(json.dumps(setup))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "scores.json").write_text(json.dumps(scores | {"groups": {"all": {"items": len(lines)}}}))
    return folder


def test_every_kind_of_results_is_compared():
    assert {type(kind) for kind in RESULT_KINDS.values()} == COMPARED_BY.keys()


def test_a_group_that_is_called_as_a_figure_stands_beside_it(tmp_path):
    names = ["F1", "accuracy", "hall", "yes", "yes (group)"]
    runs = read_runs([shares_run(tmp_path / run, "yes_no", names, said="no") for run in "ab"])
    [header, rows] = compare_groups(runs, "a", "rooms").table
    assert header[2:] == [
        *OF_YES_NO.shown, "F1 (group)", "accuracy (group)", "hall", "yes (group) (group)", "yes (group)",
    ]  # fmt: skip
    assert rows[0][2:] == ["50.0", "0.0", "50.0", "50.0", "50.0", *["50.0"] * 5]


def test_a_yes_no_answer_without_what_it_said_is_refused(tmp_path):
    with pytest.raises(UserError, match="answers without a verdict"):
        read_runs([shares_run(tmp_path / "a", "yes_no", ["x"])])


def test_a_picture_of_thousands_of_groups_has_the_first_ones(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(comparison_plots, "MOST_BARS", 3)
    monkeypatch.setattr(comparison_plots, "save", lambda figure, path: drawn.append(figure))
    comparison_plots.bars({"a": {f"g{k}": {"value": 0.5, "low": 0.4, "high": 0.6} for k in range(5)}}, "T", tmp_path)
    assert len([panel for panel in drawn[0].axes if panel.get_visible()]) == 3
    assert "(the first 3 of 5 figures" in " ".join(drawn[0].get_suptitle().split())
