"""`caad-ds config` lists the keys of the schema."""

import re

import pytest

from caad_ds import cli
from caad_ds.config.key_names import SYNONYMS
from caad_ds.config.schema import Config

LR = """\
optimizer.lr: float, default 0.0001
    peak learning rate
"""
LORA = """\
student.lora: section, default null
    the adapters of train: lora
student.lora.rank: int, default 16
    rank of the adapters (r)
"""


@pytest.fixture
def listed(capsys):
    def call(*arguments: str) -> str:
        assert cli.main(["config", *arguments]) == 0
        return capsys.readouterr().out

    return call


def test_every_key_has_a_description_within_80_columns(listed):
    lines = listed().splitlines()
    assert max(map(len, lines)) <= 80
    heads = [n for n, line in enumerate(lines) if re.match(r"[a-z]", line)]
    keys = [lines[n].partition(":")[0] for n in heads]
    assert len(keys) == len(set(keys)) and {*Config.model_fields, *SYNONYMS} <= set(keys)
    for head, following in zip(heads, [*heads[1:], len(lines)], strict=True):
        entry = lines[head + 1 : following]
        assert any(re.match(r" {4}\w", line) for line in entry), f"{lines[head]}: give it a description in schema.py"


def test_a_key_and_a_section(listed):
    assert listed("optimizer.lr") == LR
    assert LR in listed("optimizer") and "student" not in listed("optimizer")
    assert listed("student.lora").startswith(LORA)


@pytest.mark.parametrize(
    ("key", "head"),
    [
        ("run.output_dir", "path, required"),
        ("run.precision", "fp32 | bf16, default fp32"),
        ("data.train", "str | list[str], required"),
        ("data.validation", "path | null, default null"),
        ("data.skip_broken", "bool, default false"),
        ("student.taps", "list[int], default [0, 1, 2, 3]"),
        ("student.template.date", "date, default 2024-07-26"),
        ("student.llm", "str | dict[str, any] | null, default null"),
        ("optimizer.betas", "list[float, float], default [0.9, 0.98]"),
    ],
)
def test_types_and_defaults_are_those_of_yaml(listed, key, head):
    assert listed(key).splitlines()[0] == f"{key}: {head}"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("learning_rate", "unknown key learning_rate; did you mean optimizer.lr?"),
        ("optimizer.lrr", "unknown key optimizer.lrr; did you mean optimizer.lr?"),
        ("optmizer.lr", "unknown key optmizer.lr; did you mean optimizer.lr?"),
        ("optimizer.lr.peak", "unknown key optimizer.lr.peak; `caad-ds config` lists the keys"),
        ("", "unknown key ; `caad-ds config` lists the keys"),
    ],
)
def test_an_unknown_key_is_answered_as_in_a_config(capsys, key, message):
    assert cli.main(["config", key]) == 2
    assert capsys.readouterr().err == f"caad-ds: error: {message}\n"
