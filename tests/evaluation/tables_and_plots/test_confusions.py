"""Which option an answer names, and the tables of it."""

import json

import pytest

from caad_ds import cli
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.scoring.matching import verdicts
from caad_ds.evaluation.tables_and_plots.confusions import OTHER, named, summed

ACCENTS = ("italian", "spanish", "french")


@pytest.mark.parametrize(
    ("prediction", "question", "option"),
    [
        ("The accent is Spanish.", "", "spanish"),
        ("spanish, not italian", "", None),
        ("italian or spanish", "", None),
        ("German", "", None),
        ("B", "A. italian B. spanish C. french", "spanish"),
        ("", "", None),
    ],
)
def test_an_answer_names_one_option_or_none(prediction, question, option):
    assert named(prediction, ACCENTS, question) == option


@pytest.mark.parametrize(
    ("prediction", "question", "option"),
    [
        ("5 dB", "What is the SNR in dB?", "5"),
        ("21 years", "What is the age of the speaker?", "21"),
        ("5 percent", "How many percent are heard?", "5"),
        ("5 percent", "How many speakers are heard?", None),
    ],
)
def test_the_unit_that_is_asked_for_is_no_other_answer(prediction, question, option):
    """The table agrees with the rule lenient."""
    options = ("21", "5")
    assert named(prediction, options, question) == option
    assert [o for o in options if verdicts(prediction, o, options, question)["lenient"]] == ([option] if option else [])


def test_runs_add_up():
    one = {"accent": {"options": ["a", "b"], "counts": [[1, 2, 0], [0, 3, 1]]}}
    assert summed([one, one])["accent"]["counts"] == [[2, 4, 0], [0, 6, 2]]
    assert summed([one, {}]) == {}, "an earlier version's scores have none"


def test_scores_and_tables_have_them(model_folder, conflicts, tmp_path, capsys):
    """Replace the model's answers: all answers about gender name one option."""
    out = tmp_path / "run"
    arguments = ["evaluate", "--model", str(model_folder), "--benchmark", str(conflicts), "--out", str(out)]
    assert cli.main([*arguments, "--device", "cpu", "--max-new-tokens", "2"]) == 0
    said = {"gender": "female", "noise": "who knows"}
    RunFolder(out).revise(lambda p: {**p, "prediction": said[p["subset"]] if p["condition"] == "neutral" else p["gt"]})
    assert cli.main([*arguments, "--device", "cpu", "--max-new-tokens", "2"]) == 0
    found = json.loads((out / "scores.json").read_text())["confusions"]
    assert found == {
        "gender": {"options": ["female", "male"], "counts": [[2, 0, 0], [2, 0, 0]]},
        "noise": {"options": ["loud", "quiet"], "counts": [[0, 0, 2], [0, 0, 1]]},
    }
    printed = capsys.readouterr().out
    assert "gender: options named" in printed and OTHER in printed
    assert cli.main(["compare", str(out), "--out", str(tmp_path / "table")]) == 0
    table = (tmp_path / "table" / "table.md").read_text()
    assert f"| right | female | male | {OTHER} |" in table and "| male | 2 | 0 | 0 |" in table
