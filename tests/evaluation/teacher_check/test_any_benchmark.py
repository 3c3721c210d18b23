"""check-teacher, explain and speed on benchmarks without hints, and on rows that have their own choices."""

import json

import numpy as np
import pytest
import torch

from caad_ds import cli
from caad_ds.evaluation.benchmarks.benchmark_kinds import load
from caad_ds.evaluation.benchmarks.items import rows_of
from caad_ds.evaluation.teacher_check.answer_options import Options
from caad_ds.evaluation.teacher_check.check_journal import CheckJournal
from caad_ds.evaluation.teacher_check.contrast_signals import Signal
from caad_ds.evaluation.teacher_check.encoded_clips import EncodedClips
from caad_ds.evaluation.teacher_check.option_likelihoods import entropy, log_likelihoods
from caad_ds.evaluation.teacher_check.probe import Probe
from caad_ds.evaluation.teacher_check.verdict import Attribute, judge, signal_metrics
from caad_ds.generation.model import Model
from tests.evaluation.benchmarks.described_files import mmau
from tests.evaluation.benchmarks.superb_files import COUNTING, row, write_jsonl
from tests.tolerance import assert_close

POS, NEG, CONTRAST = Signal(), Signal("silence"), Signal("silence", 1.0)


@pytest.fixture
def choices(tmp_path):
    mmau(tmp_path / "data")
    return ["--benchmark", "mmau-test-mini", "--data", str(tmp_path / "data"), "--device", "cpu"]


@pytest.mark.numeric
def test_each_row_is_scored_by_its_own_choices(choices, model_folder, terms, tmp_path, capsys):
    given = ["--model", str(model_folder), *choices, "--negatives", "silence", "--alphas", "1"]
    assert cli.main(["check-teacher", *given, "--out", str(tmp_path / "check.json"), "--max-new-tokens", "2"]) == 3
    result = json.loads((tmp_path / "check.json").read_text())
    assert [fault["id"] for fault in result["rejected"]] == ["e"]
    loaded, likeliest = Model.load(model_folder, torch.device("cpu")), []
    benchmark = load("mmau-test-mini", data=tmp_path / "data")
    rows = rows_of(benchmark.items)
    probe = Probe(loaded, [], [], Options(benchmark), CheckJournal(None, {}), 32, 2)
    together = probe.likelihoods(rows, "asking")
    for one in rows:
        encoded_clips = EncodedClips(loaded, [])
        items = encoded_clips.encode(list(one.items()))
        found = log_likelihoods(loaded, items, encoded_clips, one.choices, [], [])[POS]
        assert_close(together[one.id][POS], found, terms, 5 * 6 * np.abs(found).max())
        likeliest.append(one.choices[int(found.argmax())] == one.gt)
    groups = {signal["name"]: signal["groups"] for signal in result["signals"]}
    assert groups["z_pos"]["all"]["accuracy"]["value"] == np.mean(likeliest)
    assert groups["z_pos"]["all"]["items"] == 4 and "shift" not in groups["z_pos"]["all"]
    out = capsys.readouterr().out
    assert "n/f/a/i" not in out and "text bias to remove" not in out


def test_a_benchmark_of_one_presentation_is_checked_by_its_labels(model_folder, tmp_path, capsys):
    lines = [row(COUNTING, label, (f"{k % 3}.wav",)) for k, label in enumerate(["male", "female", "male"])]
    superb = write_jsonl(tmp_path / "superb", lines)
    given = ["--model", model_folder, "--benchmark", superb, "--negatives", "text_only", "--alphas", "1"]
    assert cli.main(["check-teacher", *map(str, given), "--device", "cpu", "--max-new-tokens", "2"]) == 0
    assert COUNTING in capsys.readouterr().out


def made_up(contrast):
    """40 rows of two options, of which z_pos has 24 right and the contrast as many as said; z_neg is even."""
    right = np.arange(40)
    of = {POS: np.where(right < 24, 1.0, -1.0), NEG: right % 2 * 0.01, CONTRAST: np.where(right < contrast, 1.0, -1.0)}
    gt = right % 2
    likelihoods = {s: np.stack([np.where(gt == k, x, -x) for k in range(2)], -1)[:, None] for s, x in of.items()}
    return Attribute("rooms", gt, likelihoods)


@pytest.mark.parametrize(("contrast", "alpha", "said"), [
    (36, 1.0, "Take negative silence with alpha 1: on rooms neutral 75.0 -> 90.0."),
    (30, 0.0, "no contrast raises accuracy on what the teacher hears"),
])  # fmt: skip
def test_without_hints_a_contrast_is_chosen_by_accuracy_and_a_bias_is_not_reported(contrast, alpha, said, monkeypatch):
    attribute = made_up(contrast)
    attribute.likelihoods[POS][24:30] *= -1  # 30 right: above chance
    verdict = judge([attribute], {signal: signal_metrics([attribute], signal) for signal in (POS, NEG, CONTRAST)})
    assert verdict["alpha"] == alpha and said in verdict["lines"][-1]
    assert "no conflicting texts" in verdict["lines"][-1] and "bias to remove" not in " ".join(verdict["lines"])


def test_fewer_options_than_others_have_no_entropy_of_their_own():
    assert entropy(np.array([[0.0, 0.0, -np.inf], [1.0, 1.0, 1.0]])) == pytest.approx(np.log([2, 3]))


def test_a_row_is_explained_and_timed(choices, model_folder, tmp_path, capsys):
    given = ["--model", str(model_folder), *choices, "--items", "a", "--max-new-tokens", "1", "--out"]
    assert cli.main(["explain", *given, str(tmp_path / "e")]) == 0
    result = json.loads((tmp_path / "e" / "a.json").read_text())
    assert (result["id"], result["condition"], result["gt"]) == ("a", None, "Man") and (
        tmp_path / "e" / "a.png"
    ).is_file()
    given = ["--models", f"t={model_folder}", *choices, "--batch-size", "2", "--tokens", "1", "--rounds", "1"]
    assert cli.main(["speed", *given]) == 0
    assert "Size and speed" in capsys.readouterr().out


def test_a_described_benchmark_of_training_clips_has_its_own_folder(choices, model_folder, tmp_path, capsys):
    given = ["check-teacher", "--model", str(model_folder), *choices]
    assert cli.main([*given, "--train-data", str(tmp_path / "data")]) == 2
    assert "--train-data: is where the files of --train-benchmark are" in capsys.readouterr().err
    given += ["--train-benchmark", "mmau-test-mini"]
    assert cli.main(given) == 2
    assert "--data: mmau-test-mini needs the folder of its files" in capsys.readouterr().err
    assert cli.main([*given, "--train-data", str(tmp_path / "data")]) == 2
    assert "mmau-test-mini: has 4 clips that are in" in capsys.readouterr().err
