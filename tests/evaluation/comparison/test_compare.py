"""`caad-ds compare` over run folders whose answers are known."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from caad_ds import cli
from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.scoring.bootstrap_scores import score
from caad_ds.evaluation.scoring.matching import VERSION
from caad_ds.evaluation.tables_and_plots.comparison_plots import flips

ITEMS = 40
NEUTRAL = np.arange(ITEMS) < 30


@pytest.fixture
def make_run(tmp_path):
    """Writes a run folder of a system that loses `lost` of its 30 right answers to the false hint."""

    def make(folder, name, lost):
        adversarial = NEUTRAL & (np.arange(ITEMS) >= lost)
        right = dict(zip(CONDITIONS, (NEUTRAL, NEUTRAL, adversarial, NEUTRAL), strict=True))
        lines = [
            {"id": f"s/{i:02}", "condition": c, "subset": "s", "gt": "x", "prediction": "y", "right": bool(right[c][i]),
             "strict": False, "lenient": False}
            for i in range(ITEMS) for c in CONDITIONS
        ]  # fmt: skip
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / folder / "scores.json").write_text(json.dumps({
            "name": name, "rejected": [], "matching": VERSION, "groups": {"all": {"items": ITEMS}},
            "setup": {"name": name, "benchmark": "mcr-bench", "benchmark_sha256": "b", "model_sha256": folder},
        }))  # fmt: skip
        return str(tmp_path / folder)

    return make


@pytest.fixture
def runs(make_run):
    systems = {"teacher": 20, "Std KD": 19, "CAAD": 3}
    return [make_run(f"{k}", name, lost) for k, (name, lost) in enumerate(systems.items())]


def rows(table):
    """The rows of the first table in a Markdown file, by their first cell."""
    lines = [line.strip("| ").split(" | ") for line in table.split("\n\n")[1].splitlines()]
    return {line[0]: dict(zip(lines[0], line)) for line in lines[2:]}


@pytest.mark.parametrize("command", ["compare", "report"])
def test_a_training_runs_folder_is_told_with_its_evaluations(make_run, tmp_path, capsys, command):
    page = ["--out", str(tmp_path / "page.html")] if command == "report" else []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("")
    told = []
    for name in ("none", "evaluation", "other"):
        if name != "none":
            make_run(f"mine/{name}", name, 3)
        assert cli.main([command, str(tmp_path / "mine"), *page]) == 2
        told += [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    mine = tmp_path / "mine"
    said = f"caad-ds: error: {mine}: the folder of a training run"
    assert told == [
        f"{said}; first run `caad-ds evaluate --model {mine} ...`",
        f"{said}; give an evaluation in it ({mine}/evaluation)",
        f"{said}; give an evaluation in it ({mine}/evaluation, {mine}/other)",
    ]
    (mine / "config.yaml").unlink()
    assert cli.main([command, str(mine), *page]) == 2
    assert "no folder of an evaluation; give an evaluation in it" in capsys.readouterr().err


def test_significant_differences_are_marked_and_listed(runs, tmp_path, capsys):
    assert cli.main(["compare", *runs, "--baseline", "Std KD", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Marked *: differs from Std KD, p < 0.05 after Holm's correction over the 2 systems" in out
    text = (tmp_path / "out" / "table.md").read_text()
    shown = rows(text)
    assert list(shown) == ["teacher", "Std KD", "CAAD"]
    assert [shown[name]["adversarial"] for name in shown] == ["25.0", "27.5", "67.5*"]
    assert [shown[name]["shift"] for name in shown] == ["66.7", "63.3", "10.0*"]
    assert [shown[name]["neutral"] for name in shown] == ["75.0", "75.0", "75.0"]
    assert "| CAAD | adversarial | +40.0* | [" in text and "| 16 / 0 | < 0.001 | < 0.001 |" in text
    assert "| teacher | adversarial | -2.5 | [" in text and "| 0 / 1 | 1.000 | 1.000 |" in text
    header = "| system | neutral | faithful | adversarial | irrelevant | shift | tir_all | NormAcc faithful |"
    assert f"{header} NormAcc adversarial | NormAcc irrelevant | MRS |" in text
    [caad] = [line for line in text.split(header)[1].splitlines() if line.startswith("| CAAD |")][:1]
    assert [cell.split(" [")[0].strip() for cell in caad.split(" | ")][7:] == ["100.0", "90.0", "100.0", "92.0"]
    saved = json.loads((tmp_path / "out" / "table.json").read_text())
    assert saved["baseline"] == "Std KD" and list(saved["differences"]) == ["teacher", "CAAD"]
    found = saved["differences"]["CAAD"]["all"]["accuracy_adversarial"]
    assert found["p"] == pytest.approx(2 / 2**16) and found["p_holm"] == pytest.approx(4 / 2**16)
    for picture in ("table.png", "flips.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_the_authors_name_of_a_figure_leads_to_that_figure(runs, tmp_path, capsys):
    """Their TIR_adv is `shift`; the share of all items is not called so."""
    assert cli.main(["compare", *runs, "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert [name for name in rows(text)["CAAD"] if name.startswith("tir")] == ["tir_all"]
    for shown in (text, " ".join(capsys.readouterr().out.split())):
        assert (
            "shift: right answers lost to the false hint, of those right without it (the CAAD authors' TIR_adv)"
            in shown
        )


def test_the_first_system_is_the_baseline_unless_another_is_named(runs, capsys):
    assert cli.main(["compare", *runs]) == 0
    assert "differs from teacher" in capsys.readouterr().out
    assert cli.main(["compare", *runs, "--baseline", "caad"]) == 2
    assert "--baseline caad: no run has this name; give one of teacher, Std KD, CAAD" in capsys.readouterr().err


def test_one_system_alone_has_nothing_to_differ_from(runs, tmp_path, capsys):
    assert cli.main(["compare", runs[0], "--out", str(tmp_path / "out")]) == 0
    assert "Marked" not in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "table.json").read_text())["differences"] == {}


def test_seeds_are_one_system(make_run, tmp_path, capsys):
    runs = [make_run(f"{name}{k}", name, lost) for name, losts in (("a", [20]), ("b", [2, 6])) for k, lost in
            enumerate(losts)]  # fmt: skip
    assert cli.main(["compare", *runs, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "table.json").read_text())["differences"]["b"]["all"]["shift"]
    assert found["value"] == pytest.approx((2 + 6) / 2 / 30 - 20 / 30) and found["significant"]
    assert "p < 0.05; the systems' answers exchanged clip by clip" in capsys.readouterr().out


def test_flip_matrix_counts_items():
    right = np.random.default_rng(0).random((1, 4, 50)) < 0.6
    neutral, _, adversarial, _ = right[0]
    expected = [
        [(neutral & adversarial).mean(), (neutral & ~adversarial).mean()],
        [(~neutral & adversarial).mean(), (~neutral & ~adversarial).mean()],
    ]
    assert flips(score(right)) == [pytest.approx(row) for row in expected]


def edit(run, **fields):
    file = Path(run) / "scores.json"
    scores = json.loads(file.read_text())
    file.write_text(json.dumps({**scores, "setup": scores["setup"] | fields}))


@pytest.mark.parametrize(
    ("field", "text"), [("benchmark", "different benchmarks"), ("benchmark_sha256", "different contents")]
)
def test_runs_of_two_benchmarks_are_refused(runs, capsys, field, text):
    edit(runs[1], **{field: "dynamic-superb"})
    assert cli.main(["compare", *runs[:2]]) == 2
    assert f"{runs[1]} and {runs[0]}: evaluated on {text}" in capsys.readouterr().err


def test_a_run_counts_once(runs, capsys):
    assert cli.main(["compare", runs[0], runs[0] + "/."]) == 2
    assert "given twice" in capsys.readouterr().err
    edit(runs[1], model_sha256="0")
    assert cli.main(["compare", *runs]) == 2
    assert "one model, decoding and seed; a run counts once" in capsys.readouterr().err
    edit(runs[1], dtype="bfloat16")
    assert cli.main(["compare", *runs]) == 0


def test_answers_that_were_cut_after_the_scores_are_not_taken_for_all(runs, capsys):
    file = Path(runs[1]) / "predictions.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-6]))
    assert cli.main(["compare", *runs]) == 2
    assert "scores.json is of 40 items, predictions.jsonl has 38" in capsys.readouterr().err
    file.unlink()
    assert cli.main(["compare", *runs]) == 2
    assert "predictions.jsonl has 0" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["[]", "3", '{"id": "s/00", "condition": "neutral"}', "[" * 100_000])
def test_a_line_that_is_no_prediction_is_named(runs, capsys, line):
    file = Path(runs[1]) / "predictions.jsonl"
    file.write_text(file.read_text() + line + "\n")
    assert cli.main(["compare", *runs]) == 2
    assert f"{file}:161: no" in capsys.readouterr().err


def test_runs_scored_by_other_rules_are_refused(runs, capsys):
    """Scores of an earlier version have no mark of its rules, those of a later one another."""
    file = Path(runs[1]) / "scores.json"
    scores = json.loads(file.read_text())
    for other in ({}, {"matching": VERSION + 1}):
        file.write_text(json.dumps({key: value for key, value in scores.items() if key != "matching"} | other))
        assert cli.main(["compare", *runs]) == 2
        assert f"{runs[1]}: scored by another version's rules of matching; run its" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["right", "strict", "lenient"])
def test_an_answer_without_a_verdict_is_not_taken_for_wrong(runs, capsys, rule):
    file = Path(runs[1]) / "predictions.jsonl"
    first, *rest = file.read_text().splitlines()
    answer = {key: value for key, value in json.loads(first).items() if key != rule}
    file.write_text("\n".join([json.dumps(answer), *rest]) + "\n")
    assert cli.main(["compare", *runs]) == 2
    assert "has answers without a verdict" in capsys.readouterr().err


def test_too_few_items_are_said_to_be_too_few(make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ITEMS", 4)
    monkeypatch.setattr(sys.modules[__name__], "NEUTRAL", np.ones(4, bool))
    runs = [make_run("0", "a", 0), make_run("1", "b", 4)]
    assert cli.main(["compare", *runs, "--out", str(tmp_path / "out")]) == 0
    note = "Too few items to tell, so never marked: MRS, adversarial, faithful, irrelevant, neutral, s adv, shift, tir"
    assert note in capsys.readouterr().out.replace("\n", " ")
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| b | shift | +100.0 | [-, -] | - | 0.125 | too few items to tell |" in text and "100.0*" not in text
    assert "| b | 100.0 [51.0, 100.0] |" in text, "Wilson's interval: all of four right is no certainty"
    assert json.loads((tmp_path / "out" / "table.json").read_text())["differences"]["b"]["all"]["shift"]["too_few"]


@pytest.mark.parametrize("scores", ["{}", '{"name": "a", "setup": {}, "rejected": []}'])
def test_scores_that_are_none_are_named(runs, capsys, scores):
    (Path(runs[0]) / "scores.json").write_text(scores)
    assert cli.main(["compare", *runs]) == 2
    assert "scores.json: not the scores of an evaluation" in capsys.readouterr().err
