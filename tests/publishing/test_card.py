"""The model card that a run leaves, and the one that an export writes with the scores of an evaluation."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from caad_ds import cli
from caad_ds.models.model_hashes import model_hash
from tests.publishing.conftest import NAME


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, escaped bars being none between cells."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(re.split(r"(?<!\\)\|", line)[1:-1])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def export(*arguments: object) -> int:
    return cli.main(["export", *map(str, arguments)])


def test_a_run_leaves_a_card_that_parses(finished):
    card = ModelCard.load(finished / "model/README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers", "license": "unknown", "pipeline_tag": "audio-text-to-text",
        "tags": ["caad-ds", "speech", "audio", "knowledge-distillation", "caad"],
    }  # fmt: skip
    data = json.loads((finished / "start.json").read_text())["data"]
    assert f"sha256): `{data['index']}`. Manifest (sha256): `{data['manifest']}`" in card.text
    values = {cells[0].strip(" `"): cells[1].strip(" `") for table in tables(card.text) for cells in table}
    assert values.items() >= {
        "objective.alpha": "1.0", "objective.temperature": "2.0", "objective.kd_weight": "0.7",
        "teacher.negative": "zero_mel", "optimizer.steps": "2", "steps": "2", "run.seed": "0",
        "encoder": "teacher", "teacher": "teacher", "LLM": "random weights (llama)", "local: corpus": "8",
    }.items()  # fmt: skip
    assert "24 samples, 0.0042 hours" in card.text


def test_what_a_user_names_stays_text(finished):
    text = (finished / "model/README.md").read_text()
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    assert yaml.safe_load(front)["license"] == "unknown"
    assert "<" not in body and "[y](" not in body and "\n---\n" not in body and "{{ 7 \\* 7 }}" in body
    assert '# tiny: "one" \\| &lt;b&gt;two&lt;/b&gt;, of three\n' in body
    for table in tables(body):
        assert len({len(cells) for cells in table}) == 1, table


def test_no_path_of_this_machine_is_in_it(finished):
    text = (finished / "model/README.md").read_text()
    held = set(re.findall(r"(?<![\w:/.])/[\w.-]+/[\w./-]+", text))
    assert not held, held
    assert str(Path(finished).parent) not in text and str(Path.home()) not in text


def test_an_export_shows_the_scores_of_an_evaluation(finished, evaluated, tmp_path):
    assert export(finished, "--evaluation", evaluated, "--out", tmp_path / "model") == 0
    assert model_hash(tmp_path / "model") == model_hash(finished / "model")
    card = ModelCard.load(tmp_path / "model/README.md")
    scores = json.loads((evaluated / "scores.json").read_text())
    pooled = scores["groups"]["all"]
    figures = {result.metric_name: (result.metric_value, result.metric_args) for result in card.data.eval_results}
    adversarial = pooled["accuracy_adversarial"]
    bounds = {bound: round(100 * adversarial[bound], 2) for bound in ("low", "high")}
    assert figures["adversarial"] == (round(100 * adversarial["value"], 2), bounds)
    assert {result.dataset_revision for result in card.data.eval_results} == {scores["setup"]["benchmark_sha256"]}
    assert card.data.model_name == NAME.replace("/absent/home/", "")
    table = next(table for table in tables(card.text) if table[0][0].strip() == "subset")
    cells = {row[0].strip(): dict(zip(map(str.strip, table[0]), map(str.strip, row), strict=True)) for row in table}
    for name, value in (("all", "value"), ("low", "low"), ("high", "high")):
        assert cells[name]["adversarial"] == f"{100 * adversarial[value]:.1f}"
    assert "### tiny \\| one: mcr-bench" in card.text and "greedy decoding" in card.text
    assert str(evaluated.parent) not in str(card)


def test_scores_of_another_model_are_refused_and_nothing_is_written(finished, evaluated, tmp_path, capsys):
    first = finished / "checkpoints/step-00000001"
    assert export(first, "--evaluation", evaluated, "--out", tmp_path / "model") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"--evaluation {evaluated}: made with other weights or another tokenizer than this model's" in line
    assert not list(tmp_path.iterdir())


def test_an_unfinished_evaluation_is_refused_before_the_work(finished, evaluated, tmp_path, capsys):
    cut = shutil.copytree(evaluated, tmp_path / "cut")
    (cut / "scores.json").unlink()
    assert export(finished, "--evaluation", cut, "--out", tmp_path / "model") == 2
    assert "scores.json: missing; finish the run" in capsys.readouterr().err


def test_a_card_that_was_edited_is_not_overwritten(finished, tmp_path, capsys):
    out = tmp_path / "model"
    assert export(finished, "--out", out) == export(finished, "--out", out) == 0
    (out / "README.md").write_text("mine")
    capsys.readouterr()
    assert export(finished, "--out", out) == 2
    assert "its README.md was edited since it was exported" in capsys.readouterr().err
    assert (out / "README.md").read_text() == "mine"
    (out / "README.md").unlink()
    assert export(finished, "--out", out) == 0


TOLD = {
    "start.json": ("Index of the shards (sha256): not recorded.", "Started with not recorded.", "| teacher |"),
    "corpora.json": ("Samples, hours and corpora: not recorded.", "Started with caad-ds"),
}


@pytest.mark.parametrize("lacking", TOLD)
def test_a_run_of_an_earlier_version_has_a_card_that_says_so(finished, tmp_path, lacking):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / lacking).unlink()
    assert export(run, "--out", tmp_path / "model") == 0
    text = (tmp_path / "model/README.md").read_text()
    assert [each for each in TOLD[lacking] if each not in text] == []


def test_a_model_is_written_though_a_readme_of_its_base_is_broken(finished, tmp_path):
    """If the run has not recorded its bases, an export reads them as they are now."""
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "start.json").unlink()
    encoder_path = yaml.safe_load((run / "config.yaml").read_text())["student"]["encoder"]
    own = shutil.copytree(encoder_path, tmp_path / "ears")
    (own / "README.md").write_bytes(b"---\nlicense: [\xff\n---\n")
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace(encoder_path, str(own)))
    assert export(run, "--out", tmp_path / "model") == 0
    assert "| encoder | ears | not recorded |" in (tmp_path / "model/README.md").read_text()
