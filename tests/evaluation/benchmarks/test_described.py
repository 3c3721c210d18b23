"""Descriptions of a user's own: every form of file, every fault of a row and of the YAML itself."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caad_ds import cli
from caad_ds.evaluation.benchmarks.benchmark_kinds import load, named
from caad_ds.evaluation.evaluation_identity import fingerprint
from caad_ds.evaluation.scoring.matching_rules import judged, matches_mmau, said_of
from caad_ds.utils.errors import UserError
from tests.evaluation.benchmarks.described_files import clip
from tests.evaluation.benchmarks.superb_files import wav_bytes

PLAIN = """
name: rooms
title: Which room
data: ask the lab
files: [{file}]
columns: {{id: key, question: ask, choices: {choices}, answer: right, audio: sound, group: place}}
prompt: |-
  {{{{ question }}}}
  {{% for choice in choices %}}{{{{ letters[loop.index0] }}}}. {{{{ choice }}}}
  {{% endfor %}}
matching: option
"""
ROWS = [
    {"key": "r1", "ask": "where is it ?", "options": ["hall", "yard"], "right": "yard", "sound": "0.wav", "place": "x"},
    {"key": "r2", "ask": "how loud ?", "options": ["1", "2", "3"], "right": "2", "sound": "1.wav", "place": "y"},
]


@pytest.fixture
def describe(tmp_path):
    """Write a description and clips; returns the folder, to which the caller writes the rows."""

    def describe(file, choices="options", **replaced):
        text = PLAIN.format(file=file, choices=choices)
        for old, new in replaced.items():
            text = text.replace(f"{old}: ", f"{old}: {new}  # ", 1)
        (tmp_path / "rooms.yaml").write_text(text)
        for k in range(2):
            clip(tmp_path / "data" / f"{k}.wav", k)
        return tmp_path / "rooms.yaml", tmp_path / "data"

    return describe


def loaded(described):
    file, data = described
    return load(file, data=data)


def write_json(data, rows=ROWS):
    (data / "q.json").write_text(json.dumps(rows))


def as_table(end):
    cells = [{**row, "options": json.dumps(row["options"])} for row in ROWS]
    lines = [list(cells[0]), *([*row.values()] for row in cells)]
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in line] for line in lines]
    return "\r\n".join({"csv": ",", "tsv": "\t"}[end].join(line) for line in quoted)


def write_forms(data, end):
    text = {
        "json": lambda: json.dumps(ROWS),
        "jsonl": lambda: "\n".join(map(json.dumps, ROWS)),
        "csv": lambda: "\ufeff" + as_table("csv"),
        "tsv": lambda: as_table("tsv"),
    }
    if end != "parquet":
        (data / f"q.{end}").write_text(text[end](), encoding="utf-8", newline="")
        return
    rows = [{**row, "sound": {"bytes": wav_bytes(k), "path": f"{k}.wav"}} for k, row in enumerate(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), data / "q.parquet")


@pytest.mark.parametrize("end", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_every_form_of_file_gives_the_same_items(end, describe):
    described = describe(f"q.{end}")
    write_forms(described[1], end)
    found = loaded(described)
    assert not found.rejected
    assert [(i.id, i.subset, i.gt, i.choices) for i in found.items] == [
        ("r1", "x", "yard", ("hall", "yard")), ("r2", "y", "2", ("1", "2", "3")),
    ]  # fmt: skip
    assert found.items[0].messages == [
        {"role": "user", "content": "<start_audio><|AUDIO|><end_audio>\nwhere is it ?\nA. hall\nB. yard\n"}
    ]
    assert all(len(clip.load()) == 8000 for item in found.items for clip in item.clips)


def test_columns_of_one_choice_each_and_a_letter_for_an_answer(describe):
    described = describe("q.csv", choices="[one, two]", matching="option\nanswer_is: letter")
    (described[1] / "q.csv").write_text("key,ask,one,two,right,sound,place\nr1,who,man,woman,b,0.wav,x\n")
    [item] = loaded(described).items
    assert (item.gt, item.choices) == ("woman", ("man", "woman"))


FAULTS = {
    "sound": ("2.wav", "audio 2.wav is not in"),
    "right": ("attic", "its answer 'attic' is not among its choices: hall, yard"),
    "ask": (" ", "its question is empty, or no text or number"),
    "key": ("r2", "id 'r2' is that of q.json:1"),
    "options": (["hall"], "its choices are ['hall'], not two or more texts"),
    "place": ("all", "its group is called 'all'"),
}


@pytest.mark.parametrize("key", FAULTS)
def test_a_row_that_cannot_be_asked_is_named(key, describe):
    wrong, reason = FAULTS[key]
    described = describe("q.json")
    write_json(described[1], [ROWS[1], {**ROWS[0], key: wrong}])
    found = loaded(described)
    [row] = found.rejected
    assert row["reason"].startswith(f"q.json:2: {reason}") and [item.id for item in found.items] == ["r2"]


def test_rows_without_a_column_and_lines_that_are_none(describe):
    described = describe("q.jsonl")
    lines = [json.dumps(ROWS[0]), "{", json.dumps({**ROWS[1], "ask": "<|AUDIO|>"}), '{"key": "r4"}', "3"]
    (described[1] / "q.jsonl").write_text("\n".join(lines))
    reasons = {row["id"]: row["reason"] for row in loaded(described).rejected}
    assert list(reasons) == ["q.jsonl:2", "r2", "r4", "q.jsonl:5"]
    assert "not JSON" in reasons["q.jsonl:2"] and "<|AUDIO|>" in reasons["r2"]
    assert reasons["r4"] == "q.jsonl:4: has no 'ask', it has key" and reasons["q.jsonl:5"] == "is a int, not an object"


MISTAKES = {
    "no template": (("{{ question }}", "{% for %}"), "prompt: it is no template"),
    "unknown key": (("title:", "titel:"), "unknown key titel; did you mean title?; title is missing"),
    "rule": (("matching: option", "matching: fuzzy"), "matching: expected 'label', 'option'"),
    "no choices": ((", choices: options", ""), "matching option needs choices"),
    "yes_no": (("matching: option", "matching: option\nscore: yes_no"), "score yes_no and matching yes_no"),
    "no question": ((" question: ask,", ""), "give columns.question or question, one of them"),
    "no files": (("files: [q.json]", ""), "names neither files nor hub"),
    "a shipped name": (("name: rooms", "name: mmar"), "mmar is that of a shipped description"),
    "a kind's name": (("name: rooms", "name: mcr-bench"), "mcr-bench is that of a kind of benchmarks"),
    "code": (("{{ question }}", "{{ ''.__class__.__mro__ }}"), "cannot be filled in"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_the_yaml_is_one_line_with_file_and_key(case, describe):
    (old, new), reason = MISTAKES[case]
    file, data = describe("q.json")
    write_json(data)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(UserError) as error:
        load(file, data=data)
    message = str(error.value)
    assert reason in message.lower() or reason in message
    assert "\n" not in message and ("rooms" in message)


def test_all_mistakes_in_the_yaml_are_named(tmp_path):
    file = tmp_path / "b5.yaml"
    file.write_text("name: b\nfiles: [q.json]\ncolumns: {answr: label, audio: c, choices: {a: b}}\nmatching: label\n")
    with pytest.raises(UserError) as error:
        load(file, data=tmp_path)
    assert str(error.value) == (
        f"{file}: unknown key columns.answr; did you mean columns.answer?; title is missing; data is missing; "
        "columns.answer is missing; columns.choices: expected a text or a list, found a mapping"
    )
    file.write_text(file.read_text() + "zzz: 1\nscore: good\n")
    with pytest.raises(UserError, match=r"columns\.answr; .*; unknown key zzz; remove it; .*; and 2 more mistakes"):
        load(file, data=tmp_path)


def test_what_is_asked_for_and_is_not_there(describe, tmp_path):
    file, data = describe("q.json")
    with pytest.raises(UserError, match=r"has no q\.json, the rows of rooms; ask the lab"):
        load(file, data=data)
    with pytest.raises(UserError, match="--data: rooms needs the folder of its files; ask the lab"):
        load(file)
    with pytest.raises(UserError, match="is no description"):
        load(tmp_path, data=data)
    with pytest.raises(UserError, match="is a description"):
        load(file, "mcr-bench", data=data)
    with pytest.raises(UserError, match="is it mmau-test-mini"):
        named("mmau-testmini")


def test_a_hub_id_is_read_from_the_hubs_cache(describe, tmp_path, monkeypatch):
    """As `huggingface_hub` lays it out, without a network."""
    commit = "0" * 40
    place = tmp_path / "hub" / "datasets--lab--rooms"
    (place / "snapshots" / commit / "data").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    write_forms(place / "snapshots" / commit / "data", "parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file, _ = describe("q.json", title="Which room\nhub: [lab/rooms]")
    assert [item.id for item in load(file).items] == ["r1", "r2"]
    file.write_text(file.read_text().replace("lab/rooms", "lab/absent"))
    with pytest.raises(UserError, match=r"lab/absent: the data set cannot be read from the hub .*give --data"):
        load(file)


def test_choices_are_part_of_what_a_benchmark_is(describe):
    described = describe("q.json")
    text = described[0].read_text()
    described[0].write_text(text[: text.index("prompt: |-")] + "prompt: who\nmatching: option\n")
    write_json(described[1])
    before = fingerprint(loaded(described))
    write_json(described[1], [{**ROWS[0], "options": ["cellar", "yard"]}, ROWS[1]])
    assert fingerprint(loaded(described)) != before


def test_systems_are_compared_and_another_rule_is_another_evaluation(describe, model_folder, tmp_path, capsys):
    file, data = describe("q.json")
    write_json(data, [{**ROWS[0], "key": f"r{k}", "place": "xy"[k % 2]} for k in range(8)])

    def evaluate(out, *argv):
        given = ["--model", model_folder, "--benchmark", file, "--data", data, "--out", tmp_path / out, "--name", out]
        return cli.main(["evaluate", *map(str, given), "--device", "cpu", "--max-new-tokens", "2", *argv])

    assert evaluate("plain") == evaluate("drawn", "--temperature", "1") == 0
    for out, right in (("plain", 6), ("drawn", 1)):
        lines = [json.loads(line) for line in (tmp_path / out / "predictions.jsonl").read_text().splitlines()]
        predictions = [{**p, "prediction": "B" if k < right else "A"} for k, p in enumerate(lines)]
        (tmp_path / out / "predictions.jsonl").write_text("".join(json.dumps(p) + "\n" for p in predictions))
    assert evaluate("plain") == evaluate("drawn", "--temperature", "1") == 0
    runs = [str(tmp_path / "plain"), str(tmp_path / "drawn")]
    assert cli.main(["compare", *runs, "--out", str(tmp_path / "table")]) == 0
    table = json.loads((tmp_path / "table" / "table.json").read_text())
    assert table["title"] == "rooms"
    assert table["differences"]["drawn"]["all"]["accuracy"]["value"] == pytest.approx(1 / 8 - 6 / 8)
    assert table["systems"]["plain"]["x"]["accuracy"]["value"] == 1
    assert table["systems"]["plain"]["y"]["accuracy"]["value"] == 2 / 4
    assert (tmp_path / "table" / "table.png").is_file()
    assert "-62.5" in (tmp_path / "table" / "table.md").read_text()
    file.write_text(file.read_text().replace("matching: option", "matching: lenient"))
    capsys.readouterr()
    assert evaluate("plain") == 2
    assert "rule was option, is lenient" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["xyxyxy", "xxyyyy"])
def test_another_column_of_groups_is_another_evaluation(describe, model_folder, tmp_path, capsys, place):
    """The benchmark's hash tells where the order of the items changes, else their groups do."""
    file, data = describe("q.json")
    write_json(data, [{**ROWS[k % 2], "key": f"r{k}", "place": place[k], "task": f"t{k // 3}"} for k in range(6)])

    def evaluate(out, *argv):
        given = ["--model", model_folder, "--benchmark", file, "--data", data, "--out", tmp_path / out, "--name", out]
        return cli.main(["evaluate", *map(str, given), "--device", "cpu", "--max-new-tokens", "2", *argv])

    assert evaluate("before") == evaluate("before") == 0
    file.write_text(file.read_text().replace("group: place", "group: task"))
    capsys.readouterr()
    assert evaluate("before") == 2
    changed = "benchmark_sha256 was " if place == "xyxyxy" else "the group of r0 was 'x', is 't0'); use another --out"
    assert changed in capsys.readouterr().err
    assert evaluate("after", "--temperature", "1") == 0
    runs = [str(tmp_path / "before"), str(tmp_path / "after")]
    capsys.readouterr()
    assert cli.main(["compare", *runs, "--out", str(tmp_path / "table")]) == 2
    said = capsys.readouterr().err
    if place == "xxyyyy":
        assert f"{runs[1]}: has r0 in the group 't0', and {runs[0]} in 'x'; compare runs with one grouping" in said
    else:
        assert "evaluated on different contents of the benchmark" in said


def test_rules_by_hand():
    assert matches_mmau("A Car horn!", "Car horn", ["Car horn", "Car alarm"])
    assert not matches_mmau("car horn or alarm", "Car horn", ["Car horn", "Car alarm"])
    assert not matches_mmau("horn", "Car horn", ["Car horn", "Car alarm"]) and not matches_mmau("", "a", ["a", "b"])
    assert [said_of(text) for text in ("Yes", "eyes", "Not sure, No", "it contains", "nothing", "dog", "no")] == [
        "yes", "yes", "no", "yes", "no", None, None,
    ]  # fmt: skip
    assert judged("exact", "The Hall.", "the hall", [], "")["right"]
    assert not judged("exact", "in the hall", "the hall", [], "")["right"]
    assert judged("label", "in the hall", "the hall", [], "")["right"]
    assert judged("yes_no", "No", "no", ["yes", "no"], "") | {"lenient": True} == {
        "right": True, "strict": True, "option": True, "lenient": True, "said": "no",
    }  # fmt: skip
