"""The example of docs/benchmarks.md is run as written, and the page explains every key."""

import json
import re

import pytest

from caad_ds import cli
from caad_ds.evaluation.benchmarks.benchmark_kinds import PROMPTS
from caad_ds.evaluation.benchmarks.from_description.description import Columns, Description
from caad_ds.evaluation.benchmarks.mcr_bench import WRAPPER
from caad_ds.evaluation.scoring.matching_rules import RuleName
from tests.evaluation.benchmarks.described_files import MINIATURES, clip
from tests.root import ROOT

PAGE = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rooms.yaml").write_text(FILES["rooms.yaml"])
    for k in (1, 2):
        clip(tmp_path / "rooms" / f"{k}.wav", k)
    (tmp_path / "rooms" / "rooms.jsonl").write_text(FILES["rooms.jsonl"])


def commands(name):
    """The lines of the page that run a command on the example."""
    return [line.split() for line in PAGE.splitlines() if line.startswith(f"    caad-ds {name}") and "rooms" in line]


def test_a_benchmark_is_added_by_a_yaml_alone(rooms, model_folder, tmp_path, capsys):
    [check], [evaluate] = commands("benchmarks"), commands("evaluate")
    assert cli.main(check[1:]) == 3
    shown = capsys.readouterr()
    assert "rooms: 2 rows can be used" in shown.out
    assert "r3: rooms.jsonl:3: its answer 'C' is no letter of its 2 choices" in shown.err
    given = [str(model_folder) if word == "MODEL" else word for word in evaluate[1:]]

    def run():
        return cli.main([*given, "--device", "cpu", "--max-new-tokens", "2"])

    assert run() == 3
    file = tmp_path / "runs" / "rooms" / "predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(p["id"], p["subset"], p["gt"]) for p in lines] == [("r1", "ground", "yard"), ("r2", "first", "hall")]
    said = {"r1": "(B)", "r2": "the attic"}
    file.write_text("".join(json.dumps({**p, "prediction": said[p["id"]]}) + "\n" for p in lines))
    assert run() == 3
    groups = json.loads((tmp_path / "runs" / "rooms" / "scores.json").read_text())["groups"]
    assert {name: group["accuracy"]["value"] for name, group in groups.items()} == {"all": 0.5, "ground": 1, "first": 0}


def test_the_page_has_every_key_every_rule_and_every_shipped_name():
    keys = {*Description.model_fields} - {"columns"} | {f"columns.{key}" for key in Columns.model_fields}
    named = set(re.findall(r"`([\w.]+)`", PAGE))
    assert keys <= named, keys - named
    assert {*RuleName.__args__} <= named and all(f"`{name}`" in PAGE for name in MINIATURES)


def test_the_page_shows_the_wrapper():
    wrapped = WRAPPER.format(description="...", question="...")
    assert "".join(f"    {line}\n" for line in wrapped.splitlines()) in PAGE
    assert all(prompt in PAGE for prompt in PROMPTS)
