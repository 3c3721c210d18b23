"""What a description's rows and files may lack, said by name: ids of several folders, nulls, templates, hub ids."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caad_ds import cli
from caad_ds.evaluation.benchmarks.benchmark_kinds import load
from caad_ds.evaluation.benchmarks.from_description.description import shipped
from caad_ds.evaluation.benchmarks.from_description.templates import rendered
from caad_ds.evaluation.benchmarks.items import Fault, rows_of
from caad_ds.evaluation.commands import evaluate
from caad_ds.evaluation.teacher_check.answer_options import Options
from caad_ds.utils.errors import UserError
from tests.evaluation.benchmarks.described_files import clip, hallucination, mmar

PLAIN = """
name: rooms
title: Which room
data: ask the lab
files: ['{files}']
columns: {{{id}question: ask, choices: [one, two], answer: right, audio: sound}}
prompt: '{prompt}'
matching: option
"""
FIGURES: dict = {"rejected": []}
ROW = {"key": "r1", "ask": "where?", "one": "hall", "two": "yard", "right": "yard", "sound": "0.wav"}


def describe(folder, files="*.json", prompt="{{ question }}", own="id: key, ", more=""):
    clip(folder / "data" / "0.wav", 0)
    (folder / "rooms.yaml").write_text(PLAIN.format(files=files, prompt=prompt, id=own) + more)
    return folder / "rooms.yaml", folder / "data"


def test_one_id_in_files_of_one_name_is_found_and_both_are_named(tmp_path):
    file, data = describe(tmp_path, "*/q.json")
    for split in "ab":
        (data / split).mkdir()
        (data / split / "q.json").write_text(json.dumps([ROW]))
    found = load(file, data=data)
    assert [item.id for item in found.items] == ["r1"]
    assert found.rejected == [{"id": "r1", "reason": "b/q.json:1: id 'r1' is that of a/q.json:1"}]


def test_a_line_that_is_no_row_has_a_number_too(tmp_path):
    file, data = describe(tmp_path, "q.jsonl", own="")
    (data / "q.jsonl").write_text(f"{json.dumps(ROW)}\n{{\n{json.dumps(ROW)}\n")
    assert [item.id for item in load(file, data=data).items] == ["rooms/0", "rooms/2"]


@pytest.mark.parametrize("template", [
    "{{ row.none }}", "{{ row['none'] }}", "a {{ row.none ~ 'b' }}", "{{ row.none | upper }}", "{{ none }}",
    "{{ row.get }}", "{{ row.items() }}", "{{ row['keys'] }}", "{{ range }}", "{{ row.held | map('upper') }}",
    "{{ row.held }}", "{{ row.q | dictsort }}", "{{ row.q.absent }}", "{{ row.held | join(', ') }}",
    "{{ row.q + 1 }}", "{{ row.q | random(3) }}",
])  # fmt: skip
def test_what_is_no_text_is_a_fault_of_the_row(template):
    with pytest.raises(Fault, match="cannot be filled in") as fault:
        rendered(template, row={"q": "who", "none": None, "held": ["a", None]})
    assert " at 0x" not in str(fault.value) and "\n" not in str(fault.value)


def test_columns_that_are_called_as_methods_are_and_nulls_in_conditions():
    row = {"items": "two", "get": 3, "none": None, "list": ["a", 1]}
    assert rendered("{{ row.items }} {{ row.get }} {{ row['items'] }}", row=row) == "two 3 two"
    assert (
        rendered("{% if row.none %}x{% endif %}{{ row.none | default('-') }} {{ row.list }}", row=row) == "- ['a', 1]"
    )
    guarded = "{% if row.none is not none %}x{% elif row.none == 'a' or row.none in ['a'] %}y{% else %}z{% endif %}"
    assert rendered(guarded, row=row) == "z" and rendered(guarded, row={"none": "b"}) == "x"
    assert rendered("{{ row.list | join('-') }}", row=row) == "a-1"


def test_a_template_that_fails_is_a_row_that_is_left_out(tmp_path):
    file, data = describe(tmp_path, prompt="{{ row.ask | dictsort }}")
    (data / "q.json").write_text(json.dumps([ROW]))
    with pytest.raises(UserError, match=r"no row of rooms can be used \(r1: q\.json:1: the template"):
        load(file, data=data)


def test_a_folder_without_the_files_is_not_made_up_for_by_the_hub(tmp_path, monkeypatch):
    asked = []

    def download(name, **given):
        asked.append((name, given["revision"]))
        (tmp_path / "hub").mkdir(exist_ok=True)
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    file, data = describe(tmp_path, more="hub: [lab/rooms@v2]\n")
    with pytest.raises(UserError, match=r"has no \*\.json, the rows of rooms; ask the lab"):
        load(file, data=data)
    assert not asked
    with pytest.raises(UserError, match="has no"):
        load(file)
    assert asked == [("lab/rooms", "v2")]


def test_files_that_are_missing_are_named(tmp_path, capsys):
    hallucination(tmp_path / "data")
    whole = load(Path("audio-hallucination"), data=tmp_path / "data")
    for file in (tmp_path / "data").glob("*Popular*/*"):
        file.unlink()
    (tmp_path / "data" / "AudioHallucination_AudioCaps-Popular").rmdir()
    assert cli.main(["benchmarks", "check", "audio-hallucination", "--data", str(tmp_path / "data")]) == 3
    assert "AudioHallucination_AudioCaps-Popular*: there is none in" in capsys.readouterr().err
    assert len(load(Path("audio-hallucination"), data=tmp_path / "data").items) == len(whole.items) - 4


@pytest.mark.parametrize("pattern", [".", "./"])
def test_the_folder_itself_may_be_named_for_its_tables(tmp_path, pattern):
    file, data = describe(tmp_path, pattern)
    pq.write_table(pa.Table.from_pylist([ROW]), data / "q.parquet")
    found = load(file, data=data)
    assert [item.id for item in found.items] == ["r1"] and not found.rejected


@pytest.mark.parametrize(("pattern", "said"), [
    ("", "files has an empty name"), (" ", "files has an empty name"),
    ("/q.json", "files: /q.json is absolute; give it relative to the folder of --data"),
    ("**.csv", "files: in **.csv ** is only a part of a name; write **/*.csv"),
    ("a/b**/q.json", "files: in a/b**/q.json ** is only a part of a name"),
])  # fmt: skip
def test_a_pattern_that_can_match_nothing_is_refused_in_one_line(tmp_path, pattern, said, capsys):
    file, data = describe(tmp_path, pattern)
    assert cli.main(["benchmarks", "check", str(file), "--data", str(data)]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"{file}: " in line and said in line


def test_a_folder_that_hides_a_shipped_description_is_named(tmp_path, monkeypatch, capsys):
    mmar(tmp_path / "mmar")
    monkeypatch.chdir(tmp_path)
    for data in (["--data", "mmar"], []):
        assert cli.main(["benchmarks", "check", "mmar", *data]) == 2
        assert "; ./mmar hides the shipped description of this name: rename it" in capsys.readouterr().err


def test_an_empty_choice_has_no_likelihood(tmp_path):
    mmar(tmp_path / "data")
    benchmark = load(Path("mmar"), data=tmp_path / "data")
    known, rejected = Options(benchmark).usable(rows_of(benchmark.items), None)
    assert [row.id for row in known] == ["v0"]
    assert rejected == [{"id": "v1", "reason": "one of its choices is empty, and an empty text has no likelihood"}]


def test_the_list_says_what_was_not_seen(capsys):
    assert cli.main(["benchmarks"]) == 0
    assert "were not seen" in " ".join(capsys.readouterr().out.split())


def test_mlflow_gets_the_place_of_a_shipped_description(model_folder, monkeypatch, tmp_path):
    logged = []
    monkeypatch.setattr(evaluate, "implementation", lambda name: SimpleNamespace(evaluate=lambda **given: FIGURES))
    monkeypatch.setattr(evaluate, "show_evaluation", lambda *given: None)
    monkeypatch.setattr(evaluate, "evaluation_rows", lambda scores: None)
    monkeypatch.setattr(evaluate, "log_evaluation", lambda store, out, place, rows: logged.append(place))
    parser = argparse.ArgumentParser()
    evaluate.register(parser)
    given = ["--model", str(model_folder), "--benchmark", "mmar", "--out", str(tmp_path / "run")]
    monkeypatch.chdir(tmp_path)
    assert evaluate.run(parser.parse_args(given)) == 0
    assert logged == [shipped()["mmar"]]
