"""Stage 1 ends with a table of the outcomes by wording of the question, with examples of problems."""

import json

import pytest

from data_prep import describe
from data_prep.stage1 import answer_table, merge, pseudo_gt
from data_prep.stage1.engines import Answer, template
from data_prep.stage1.engines.generation_settings import SYSTEM, GenerationSettings
from tests.data_prep.lines import read

OPEN, CLOSED = "Which gender is it?", "Male or female?"
INSTRUCTIONS = f"""
attributes:
  gender: {{name: Gender, questions: ['{OPEN}', '{CLOSED}'], options: {{female: She is female., male: He is male.}}}}
prompts:
  describe: {{share: 0.1, texts: [Describe it.]}}
"""


def said(record: dict) -> Answer:
    """Right about the open question; else in turn the other option, both, a refusal, and one that is cut off."""
    prompt, number = record["metadata"]["prompt"], int(record["id"])
    label = prompt.get("label", "")
    if prompt["question"] != CLOSED:
        return Answer(record["id"], f"It is {label}.")
    other = "male" if label == "female" else "female"
    said = [f"It is {other}.", "Male or female.", "I'm sorry, but I can't listen to audio.", "It is, it is"][number % 4]
    return Answer(record["id"], said, "truncated: it did not end within 9 tokens" if number % 4 == 3 else "")


class Talker:
    def answers(self, blocks, done):
        yield from (said(record) for block in blocks for record in block if record["id"] not in done)


@pytest.fixture
def described_manifest(tmp_path, prep, write_lines, monkeypatch):
    """200 prompts of both wordings, and one of the corpus's own, answered by `said`."""
    monkeypatch.setattr(template, "TemplateEngine", Talker)
    (tmp_path / "open.yaml").write_text(INSTRUCTIONS)
    audios = [{"path": "a.wav", "duration": 1.0}]
    rows = [
        {"id": str(number), "audios": audios, "metadata": {"gender": ("female", "male")[number // 4 % 2]}}
        for number in range(200)
    ]
    source, out = write_lines("plain.jsonl", rows), tmp_path / "described.jsonl"
    prep(describe, "--manifest", source, "--instructions", tmp_path / "open.yaml", "--out", out)
    return out


def test_the_table_tells_wordings_apart(described_manifest, prep, tmp_path, capsys):
    out, prompts = tmp_path / "answered.jsonl", read(described_manifest)
    prep(pseudo_gt, "--manifest", described_manifest, "--out", out, "--engine", "template")
    printed = capsys.readouterr().out
    table = json.loads(answer_table.table_path(out).read_text())
    rows = {row["question"]: row for row in table["questions"]}
    records = {
        text: [record for record in prompts if record["metadata"]["prompt"]["question"] == text] for text in rows
    }
    turn = [sum(int(record["id"]) % 4 == number for record in records[CLOSED]) for number in range(4)]
    for text, row in rows.items():
        assert row["records"] == len(records[text]) == row["answered"] + sum(row["rejected"].values())
    assert rows[OPEN]["named"] == {"right": len(records[OPEN]), "another": 0, "none or several": 0}
    assert rows[CLOSED]["named"] == {"right": 0, "another": turn[0], "none or several": turn[1]}
    assert rows[CLOSED]["rejected"] == {"refusal": turn[2], "truncated": turn[3]} == table["rejected"]
    assert rows["Describe it."]["named"] == {} and rows["Describe it."]["about"] == "describe"
    examples = rows[CLOSED]["examples"]
    assert {problem: len(kept) for problem, kept in examples.items()} == dict.fromkeys(
        ("another", "none or several", "refusal", "truncated"), 2
    )
    assert {kept["answer"] for kept in examples["truncated"]} == {"It is, it is"}
    for text in (OPEN, CLOSED, "Describe it.", "100.0", f"refusal: {CLOSED} (right: ", "-> It is, it is"):
        assert text in printed


def test_rejected_answers_are_listed_with_what_was_asked(described_manifest, prep, tmp_path):
    out = tmp_path / "answered.jsonl"
    prep(pseudo_gt, "--manifest", described_manifest, "--out", out, "--engine", "template")
    prompts = {record["id"]: record["metadata"]["prompt"] for record in read(described_manifest)}
    rejected = read(tmp_path / "answered.rejected.jsonl")
    assert rejected
    for row in rejected:
        assert (row["question"], row["label"]) == (CLOSED, prompts[row["id"]]["label"]) and row["response"]


def test_a_truncated_answer_stays_rejected_under_other_checks(described_manifest, prep, tmp_path):
    out, checks = tmp_path / "answered.jsonl", tmp_path / "none.yaml"
    checks.write_text("{}\n")
    for options in ((), ("--checks", checks), ()):
        prep(pseudo_gt, "--manifest", described_manifest, "--out", out, "--engine", "template", *options)
        rules = {row["reason"].split(":")[0] for row in read(tmp_path / "answered.rejected.jsonl")}
        assert rules == ({"truncated"} if options else {"refusal", "truncated"})


def test_merged_parts_give_the_same_table(described_manifest, prep, tmp_path, capsys):
    single, merged = tmp_path / "single.jsonl", tmp_path / "merged.jsonl"
    prep(pseudo_gt, "--manifest", described_manifest, "--out", single, "--engine", "template")
    for part in ("0/3", "1/3", "2/3"):
        prep(pseudo_gt, "--manifest", described_manifest, "--out", merged, "--engine", "template", "--shard", part)
    capsys.readouterr()
    prep(merge, "--manifest", described_manifest, "--out", merged)
    assert OPEN in capsys.readouterr().out
    tables = [answer_table.table_path(out).read_bytes() for out in (single, merged)]
    assert tables[0] == tables[1]


def test_very_many_wordings_are_distinguished_up_to_a_limit(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(answer_table, "MOST", 50)
    table = answer_table.AnswerTable()
    for number in range(200):
        prompt = {"kind": "attribute", "condition": "none", "question": f"Number {number}?", "label": "a"}
        record = {"id": str(number), "metadata": {"prompt": {**prompt, "options": ["a", "b"]}}, "response": "b"}
        table.add(record, record)
    rows = table.content()["questions"]
    assert (
        len(rows) == 51 and sum(row["records"] for row in rows) == sum(row["named"]["another"] for row in rows) == 200
    )
    table.show(tmp_path / "out.jsonl")
    printed = capsys.readouterr().out
    assert "All questions and examples are in" in printed and printed.count("\n") < 70


def test_questions_about_attributes_have_a_system_prompt_by_default(described_manifest):
    records = {record["metadata"]["prompt"]["kind"]: record for record in read(described_manifest)}
    first = {kind: GenerationSettings().messages(record)[0] for kind, record in records.items()}
    assert first["attribute"] == {"role": "system", "content": SYSTEM} and first["describe"]["role"] == "user"
    for system in ("", "Be brief."):
        roles = [GenerationSettings(system).messages(record)[0]["content"] == system for record in records.values()]
        assert roles == [bool(system)] * 2
