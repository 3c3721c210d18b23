"""Numbers and booleans, in YAML and in metadata, are compared as the texts that were written."""

import json
import re
from random import Random

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from caad_ds.data.instructions import Instructions
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import parse_yaml, read_yaml
from data_prep import conflict_benchmark, describe, split
from data_prep.annotate.classes import read_scales
from data_prep.common.questions_and_hints import ask

ONE = "name: Speakers\n    questions: [How many]\n    options:\n"


def instructions(path, *options):
    lines = "".join(f"      {option}: It is number {n}.\n" for n, option in enumerate(options))
    (path / "i.yaml").write_text(f"attributes:\n  speakers:\n    {ONE}{lines}")
    return path / "i.yaml"


@pytest.mark.parametrize(
    ("written", "values"),
    [("1", [1, "1"]), ("0.5", [0.5, "0.5"]), ("-3", [-3]), ("true", [True, "true"]), ('"yes"', ["yes"]),
     ('"1.10"', ["1.10"]), ('"2019-01-01"', ["2019-01-01"]), ("2019-01-01", ["2019-01-01"])],
)  # fmt: skip
def test_an_option_is_known_as_number_boolean_and_text(written, values, tmp_path):
    loaded = Instructions.load(instructions(tmp_path, written, "other"))
    for value in values:
        record = {"id": "a", "audios": [{"path": "a", "text": "hi", "duration": 1.0}], "metadata": {"speakers": value}}
        assert loaded.known(record) == ["speakers"]
        asked = ask(loaded, record, "speakers", Random(0))
        assert asked.label == written.strip('"') and asked.statement == "It is number 0."
        assert f"(Speakers: {asked.label})" in describe.seed_description(record, loaded)


@pytest.mark.parametrize(
    ("written", "read"),
    [("yes", "true"), ("No", "false"), ("on", "true"), ("off", "false"), ("True", "true"), ("null", "nothing"),
     ("~", "nothing"), ("1.10", "1.1"), ("010", "8"), ("0x1F", "31"), ("1_000", "1000"), ("12:30:00", "45000"),
     ("1:30", "90"), ("2019-1-1 10:00:00", "2019-01-01 10:00:00"), ("1.", "1.0"), ("+1", "1"), (".inf", "Infinity")],
)  # fmt: skip
def test_what_yaml_makes_another_value_of_is_reported_with_the_quotes_that_are_missing(written, read, tmp_path):
    pattern = r"i\.yaml: .*YAML reads {} as {}.*; write it in quotes: \"{}\" in line 6".format(
        *(re.escape(text) for text in (written, read, written))
    )
    with pytest.raises(UserError, match=pattern):
        Instructions.load(instructions(tmp_path, written, "other"))


@given(st.one_of(st.integers(), st.booleans(), st.floats(), st.text(st.characters(codec="ascii", min_codepoint=32))))
def test_a_scalar_is_the_text_that_was_written_or_an_error(tmp_path_factory, value):
    """An unquoted YAML value is never read as a different text."""
    path = tmp_path_factory.getbasetemp() / "scalar.yaml"
    written = str(value)
    path.write_text(f"a: {written}\n")
    try:
        [found] = read_yaml(path, dict[str, str]).values()
    except UserError:
        return
    assert found == yaml.load(f"a: {written}", yaml.BaseLoader)["a"]


def test_labels_of_classes_and_the_values_of_a_rule_may_be_numbers(tmp_path):
    (tmp_path / "scales.yaml").write_text("size: {of: hz, labels: [1, 2], thresholds: [3]}\n")
    assert read_scales(tmp_path / "scales.yaml")["size"].labels == ["1", "2"]
    (tmp_path / "scales.yaml").write_text("size: {of: hz, labels: [1, no], thresholds: [3]}\n")
    with pytest.raises(UserError, match='YAML reads no as false; write it in quotes: "no" in line 1'):
        read_scales(tmp_path / "scales.yaml")


@pytest.mark.parametrize("written", ["2019", '"2019"'])
def test_where_finds_a_number_whichever_way_it_is_written(written, tmp_path, manifest, prep):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["metadata"]["year"] = (2019, "2019", 2020, None, 2019.0, "2019.0", 2020.0, "2019.5")[number % 8]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rules.yaml").write_text(f"- {{name: old, where: {{year: [{written}]}}, hash_of: voice}}\n")
    prep(split, "--manifest", manifest, "--out", tmp_path / "out", "--rules", tmp_path / "rules.yaml")
    assert len((tmp_path / "out" / "old.jsonl").read_text().splitlines()) == 4


def test_a_number_is_asked_about_in_a_conflict_benchmark(tmp_path, manifest, prep):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["metadata"] = {"speakers": 1 + number % 2}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = instructions(tmp_path, 1, 2)
    prep(conflict_benchmark, "--manifest", manifest, "--instructions", path, "--out", tmp_path / "out")
    asked = json.loads((tmp_path / "out" / "speakers" / "speakers.json").read_text())
    assert sorted(row["gt"] for row in asked) == ["1"] * 4 + ["2"] * 4
    prep(describe, "--manifest", manifest, "--instructions", path, "--out", tmp_path / "described.jsonl")
    assert len((tmp_path / "described.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize("text", ["a: 2019-13-45", "2019-13-45: a", "a: {1: b, 1: c}", "a: 0b_"])
def test_a_value_that_is_none_is_an_error_of_yaml(text):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)
