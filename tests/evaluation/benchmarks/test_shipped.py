"""Each shipped description, end to end with a random model: its published form, its figures by hand, a broken row."""

import json
import sys

import pytest

from caad_ds import cli
from caad_ds.evaluation.benchmarks.benchmark_kinds import KINDS
from caad_ds.evaluation.benchmarks.from_description.description import Description, read_description, shipped
from caad_ds.evaluation.tables_and_plots.mlflow_log import chosen, flat_metrics
from tests.evaluation.benchmarks.described_files import MINIATURES, clip, meld


def values(found, expected):
    """The figures of a group that are expected, as they are."""
    return {name: found[name]["value"] for name in expected}


def test_every_shipped_description_is_tried_and_says_where_it_was_seen():
    assert shipped().keys() == MINIATURES.keys()
    for name, file in shipped().items():
        described = read_description(file)
        assert isinstance(described, Description) and described.name == name not in KINDS
        assert described.sources and all(len(source.commit) == 40 for source in described.sources)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_is_asked_and_its_figures_are_those_by_hand(name, model_folder, tmp_path, capsys):
    mini = MINIATURES[name]
    mini.write(tmp_path / "data")

    def run():
        given = ["--model", model_folder, "--benchmark", name, "--data", tmp_path / "data", "--out", tmp_path / "run"]
        return cli.main(["evaluate", *map(str, given), "--device", "cpu", "--max-new-tokens", "2"])

    assert run() == 3
    bad, reason = mini.broken
    err = capsys.readouterr().err
    assert "1 row was left out" in err and f"  {bad}: " in err and reason in err
    file = tmp_path / "run" / "predictions.jsonl"
    asked = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(p["id"] for p in asked) == sorted(mini.answers)
    file.write_text("".join(json.dumps({**p, "prediction": mini.answers[p["id"]]}) + "\n" for p in asked))
    assert run() == 3
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert [row["id"] for row in scores["rejected"]] == [bad]
    assert scores["setup"]["benchmark"] == name
    for group, expected in mini.figures.items():
        assert values(scores["groups"][group], expected) == pytest.approx(expected), group
    logged = chosen(dict(flat_metrics(scores["groups"])))
    assert logged["all/accuracy"] == scores["groups"]["all"]["accuracy"]["value"]
    assert {f"all/{key}" for key in mini.figures["all"]} <= logged.keys()
    out = capsys.readouterr().out
    assert f"{100 * mini.figures['all']['accuracy']:.1f}" in out


@pytest.mark.parametrize("name", MINIATURES)
def test_check_lists_the_broken_row(name, tmp_path, capsys):
    mini = MINIATURES[name]
    mini.write(tmp_path / "data")
    assert cli.main(["benchmarks", "check", name, "--data", str(tmp_path / "data")]) == 3
    shown = capsys.readouterr()
    bad, reason = mini.broken
    assert f"{name}: {len(mini.answers)} rows can be used" in shown.out
    assert f"  {bad}: " in shown.err and reason in shown.err


def test_melds_clips_may_have_been_converted(tmp_path, capsys):
    meld(tmp_path / "data", clip, "wav")
    assert cli.main(["benchmarks", "check", "meld-emotion", "--data", str(tmp_path / "data")]) == 3
    assert "meld-emotion: 3 rows can be used" in capsys.readouterr().out


def test_melds_videos_without_the_package_that_reads_them(model_folder, tmp_path, monkeypatch, capsys):
    meld(tmp_path / "data")
    monkeypatch.setitem(sys.modules, "av", None)  # importing it fails
    given = ["--model", model_folder, "--benchmark", "meld-emotion", "--data", tmp_path / "data"]
    assert cli.main(["evaluate", *map(str, given), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "an MP4 or QuickTime file" in line and "caad-ds[audio]" in line


def test_the_list_names_them_and_their_sources(capsys):
    assert cli.main(["benchmarks"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*MINIATURES, *KINDS))
    lines = {line.partition(": ")[0]: line for line in out.splitlines()}
    assert "arXiv 2508.15407" in lines["mcr-bench"] and "arXiv 2309.09510" in lines["dynamic-superb"]
    assert "DynamicSuperb/<instance>" in lines["dynamic-superb"] and {*KINDS, "the CAAD authors' manifests"} <= {*lines}
    assert "release MMAU-v05.15.25" in out and "github.com/kuan2jiu99/audio-hallucination" in out
