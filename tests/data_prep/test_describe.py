"""Seed descriptions, instructions and hints."""

import json
import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caad_ds.cli import main
from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.scoring.matching import matches_strictly
from caad_ds.utils.errors import UserError
from data_prep import conflict_benchmark, describe, split
from data_prep.common.questions_and_hints import ask, hint
from data_prep.stage1.textual_messages import textual_messages
from tests.data_prep.instruction_files import DEMO, FILES
from tests.data_prep.lines import read
from tests.tolerance import sampling

RECORD = {
    "id": "a",
    "audios": [{"path": "a.wav", "text": "the dog finds bread", "duration": 1.2}],
    "metadata": {"speaking_rate": "fast", "gender": "female", "voice": "f1"},
}
MIXED = {"none": 0.2, "faithful": 0.5, "adversarial": 0.2, "irrelevant": 0.1}


def test_seed_description_names_known_attributes_only():
    text = describe.seed_description(RECORD, DEMO)
    assert text == "[00:00-00:02] the dog finds bread (Gender: female, Speaking rate: fast)"


def test_seed_description_of_two_audios_without_attributes():
    audios = [{"path": "a", "text": "one", "duration": 2.0}, {"path": "b", "text": "two", "duration": 61.5}]
    text = describe.seed_description({"id": "a", "audios": audios}, DEMO)
    assert text == "[00:00-00:02] one\n[00:00-01:02] two"


def test_a_line_break_in_a_text_or_a_value_makes_no_line(pool):
    audios = [{"path": name, "text": text, "duration": 1.0} for name, text in (("a", "one\r\n two\n"), ("b", "three"))]
    record = {"id": "a", "audios": audios, "metadata": {"age": "7\n or 8"}}
    record["seed_description"] = describe.seed_description(record, pool)
    assert record["seed_description"] == "[00:00-00:01] one two (Age: 7 or 8)\n[00:00-00:01] three (Age: 7 or 8)"
    asked = {**record, "messages": [{"role": "user", "content": "<|AUDIO|>, then <|AUDIO|>?"}]}
    (message,) = textual_messages(asked)
    assert message["content"].count("\n") == 0 and message["content"].endswith("three (Age: 7 or 8)?")


def test_only_the_named_attributes_are_asked_about():
    some = Instructions.load(FILES[0], ["speaking_rate"])
    assert describe.seed_description(RECORD, some) == "[00:00-00:02] the dog finds bread (Speaking rate: fast)"
    assert {row["metadata"]["prompt"]["attribute"] for row in describe.describe(RECORD, some, MIXED, 3, 0)} == {
        "speaking_rate"
    }
    with pytest.raises(UserError, match="has no attribute rate "):
        Instructions.load(FILES[0], ["rate"])


@pytest.mark.parametrize("path", FILES, ids=["demo", "recorded", "paper"])
def test_every_statement_names_its_option_and_the_demos_questions_name_them_all(path):
    instructions = Instructions.load(path)
    for attribute in instructions.attributes.values():
        for question in attribute.questions:
            words = question.replace("?", "").replace(",", "").split()
            assert instructions != DEMO or set(attribute.options) <= set(words)
        for label, statement in attribute.options.items():
            assert matches_strictly(statement, label, attribute.options)


@given(st.text(min_size=1, max_size=8), st.integers(0, 9), st.integers(1, 5))
def test_prompts_are_a_function_of_id_and_seed_and_agree_with_their_labels(identity, seed, questions):
    record = {**RECORD, "id": identity}
    rows = describe.describe(record, DEMO, MIXED, questions, seed)
    assert rows == describe.describe(record, DEMO, MIXED, questions, seed)
    known = len(RECORD["metadata"].keys() & DEMO.attributes.keys())
    assert min(questions, known) <= len(rows) == len({row["id"] for row in rows}) <= questions
    assert len({row["messages"][0]["content"] for row in rows}) == len(rows)
    for row in rows:
        prompt, content = row["metadata"]["prompt"], row["messages"][0]["content"]
        assert prompt["label"] == RECORD["metadata"][prompt["attribute"]]
        assert content.startswith("<start_audio><|AUDIO|><end_audio>\n") and content.endswith(prompt["question"])
        claim = content.removesuffix(prompt["question"]).split("\n")[1].strip()
        options = DEMO.attributes[prompt["attribute"]].options
        assert (claim == "") == (prompt["condition"] == "none")
        assert (claim == prompt["statement"]) == (prompt["condition"] == "faithful")
        assert (claim in options.values() and claim != prompt["statement"]) == (prompt["condition"] == "adversarial")
        assert (claim in DEMO.irrelevant) == (prompt["condition"] == "irrelevant")


def test_two_questions_ask_about_two_attributes():
    first, second = describe.describe(RECORD, DEMO, MIXED, 2, 0)
    assert {first["metadata"]["prompt"]["attribute"], second["metadata"]["prompt"]["attribute"]} == {
        "gender",
        "speaking_rate",
    }
    assert (first["id"], second["id"]) == ("a-q0", "a-q1")


def test_hints_come_as_often_as_asked_for():
    rows = [describe.describe({**RECORD, "id": str(n)}, DEMO, MIXED, 1, 0)[0] for n in range(4000)]
    counts = Counter(row["metadata"]["prompt"]["condition"] for row in rows)
    assert {name: counts[name] / 4000 for name in MIXED} == pytest.approx(MIXED, abs=sampling(4000, *MIXED.values()))


def test_command_rejects_records_without_attributes(tmp_path, manifest, instructions, prep, write_lines):
    rows = read(manifest)
    del rows[0]["metadata"]
    out = tmp_path / "described.jsonl"
    source = write_lines("some.jsonl", rows)
    prep(
        describe, "--manifest", source, "--out", out, "--instructions", instructions, "--hints", "none=0.5,faithful=0.5"
    )
    assert len(read(out)) == 7
    assert [row["id"] for row in read(tmp_path / "described.rejected.jsonl")] == ["clip0"]


def test_messages_of_a_corpus_are_kept():
    record = {**RECORD, "messages": [{"role": "user", "content": "<|AUDIO|> hm?"}]}
    (row,) = describe.describe(record, DEMO, MIXED, 3, 0)
    assert row["messages"] == record["messages"] and row["seed_description"].startswith("[00:00-00:02]")


def test_what_is_recorded_of_a_prompt_leaves_the_users_metadata_alone():
    own = {name: "mine" for name in ("kind", "condition", "question", "label", "attribute", "statement")}
    (row,) = describe.describe({**RECORD, "metadata": {**RECORD["metadata"], **own}}, DEMO, MIXED, 1, 0)
    recorded = row["metadata"].pop("prompt")
    assert row["metadata"] == {**RECORD["metadata"], **own}
    assert recorded == describe.describe(RECORD, DEMO, MIXED, 1, 0)[0]["metadata"]["prompt"]


def test_a_further_field_of_a_corpus_is_not_asked():
    turn = {"role": "user", "content": "Listen: <start_audio><|AUDIO|><end_audio> Who speaks?"}
    (row,) = describe.describe({**RECORD, "messages": [turn], "metadata": {"question": "x"}}, DEMO, MIXED, 1, 0)
    assert row["metadata"] == {"question": "x"}
    assert textual_messages(row)[0]["content"] == "Listen: [00:00-00:02] the dog finds bread Who speaks?"


PROMPT = {"kind": "attribute", "condition": "none", "question": "Who?", "statement": "A man."}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Who speaks?", "an object, not 'Who speaks?'"),
        ({"question": "Who?"}, "'kind' is missing"),
        ({**PROMPT, "mine": 1}, "there is no 'mine' in it"),
        ({**PROMPT, "statement": 5}, "'statement' must be a text, not 5"),
    ],
)
@pytest.mark.parametrize("messages", [None, [{"role": "user", "content": "<|AUDIO|>?"}]])
def test_a_prompt_of_the_users_own_rejects_its_record_alone(
    tmp_path, manifest, instructions, prep, write_lines, prompt, expected, messages
):
    rows, out = read(manifest), tmp_path / "described.jsonl"
    rows[2]["metadata"]["prompt"], rows[2]["messages"] = prompt, messages
    rows[2]["seed_description"] = "given"
    source = write_lines("own.jsonl", rows)
    prep(describe, "--manifest", source, "--out", out, "--instructions", instructions)
    (rejected,) = read(tmp_path / "described.rejected.jsonl")
    assert len(read(out)) == 7 and rejected["id"] == "clip2" and expected in rejected["reason"]
    assert "'prompt' of its metadata is kept for what `caad-ds prep describe` writes" in rejected["reason"]


def test_a_described_manifest_can_be_described_again(tmp_path, described, instructions, prep):
    out = tmp_path / "again.jsonl"
    prep(describe, "--manifest", described, "--out", out, "--instructions", instructions)
    assert read(out) == read(described)


def test_hints_come_by_default_and_can_be_switched_off(prep, instructions, tmp_path, write_lines):
    rows = [{**RECORD, "id": str(number)} for number in range(4000)]
    common = ("--manifest", write_lines("many.jsonl", rows), "--out", tmp_path / "out.jsonl")
    found = {}
    for options in ((), ("--hints", "none=1")):
        prep(describe, *common, "--instructions", instructions, *options)
        found[options] = Counter(row["metadata"]["prompt"]["condition"] for row in read(common[-1]))
    shares = {"none": 0.5, "faithful": 0.4, "adversarial": 0.05, "irrelevant": 0.05}
    drawn = {name: found[()][name] / 4000 for name in shares}
    assert drawn == pytest.approx(shares, abs=sampling(4000, *shares.values()))
    assert found["--hints", "none=1"] == {"none": 4000}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none=0.5", "add up to 0.5"),
        ("some=1", "no condition 'some'"),
        ("none", "CONDITION=SHARE"),
        ("none=x", "CONDITION"),
    ],
)
def test_wrong_shares_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        describe.parse_hints(text)


def test_command_ends_in_one_line_on_wrong_shares(tmp_path, instructions, capsys):
    arguments = ["--manifest", tmp_path / "m.jsonl", "--out", tmp_path / "o.jsonl", "--instructions", instructions]
    assert main(["prep", "describe", *map(str, arguments), "--hints", "foo=1"]) == 2
    printed, err = capsys.readouterr()
    assert printed == "" and len(err.splitlines()) == 1
    assert "--hints foo=1: there is no condition 'foo'" in err


POOL = """
attributes:
  gender: {name: Gender, questions: ['Female or male?'], options: {female: She is female., male: He is male.}}
facts: {age: Age}
prompts:
  describe: {share: 0.3, texts: [Describe it., 'What do you hear?']}
  repeat: {share: 0.2, needs_text: true, texts: [Repeat it.]}
irrelevant: [It rains.]
"""


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "pool.yaml").write_text(POOL)
    return Instructions.load(tmp_path / "pool.yaml")


def test_kinds_of_prompts_come_as_often_as_the_file_says(pool):
    kinds, asked = Counter(), {}
    for number in range(4000):
        record = {**RECORD, "id": str(number), "metadata": {"gender": "female", "age": 7}}
        (row,) = describe.describe(record, pool, {"adversarial": 1.0}, 1, 0)
        prompt = row["metadata"]["prompt"]
        kinds[prompt["kind"]] += 1
        asked.setdefault(prompt["kind"], set()).add(row["messages"][0]["content"].split("\n")[1])
        assert (prompt["condition"] == "adversarial") == (prompt["kind"] == "attribute") == ("label" in prompt)
        assert row["seed_description"] == "[00:00-00:02] the dog finds bread (Gender: female, Age: 7)"
    shares = {kind: kinds[kind] / 4000 for kind in kinds}
    expected = {"attribute": 0.5, "describe": 0.3, "repeat": 0.2}
    assert shares == pytest.approx(expected, abs=sampling(4000, *expected.values()))
    assert asked["describe"] == {"Describe it.", "What do you hear?"} and asked["repeat"] == {"Repeat it."}
    assert asked["attribute"] == {"He is male. Female or male?"}


def test_a_record_gets_no_prompt_that_it_has_nothing_for(pool):
    silent = {"id": "a", "audios": [{"path": "a.wav", "text": "", "duration": 1.0}], "metadata": {"age": 7}}
    rows = describe.describe(silent, pool, MIXED, 9, 0)
    assert {row["metadata"]["prompt"]["kind"] for row in rows} == {"describe"}
    assert len({row["messages"][0]["content"] for row in rows}) == len(rows) == 2  # none is asked twice
    assert rows[0]["seed_description"] == "[00:00-00:01] (Age: 7)"
    heard = describe.describe({**RECORD, "metadata": {}}, pool, MIXED, 9, 0)
    assert Counter(row["metadata"]["prompt"]["kind"] for row in heard) == {"describe": 2, "repeat": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("share: 0.3", "share: 0.9"), "shares of prompts add up to 1.1"),
        (("  describe:", "  attribute:"), "'attribute' is the kind of the questions about attributes"),
        (("age: Age", "gender: Sex"), "'gender' is both an attribute and a fact"),
        (
            ("needs_text", "need_text"),
            "unknown key prompts.repeat.need_text; did you mean prompts.repeat.needs_text",
        ),
    ],
)
def test_a_pool_that_contradicts_itself_is_refused(tmp_path, change, message):
    (tmp_path / "pool.yaml").write_text(POOL.replace(*change))
    with pytest.raises(UserError, match=message):
        Instructions.load(tmp_path / "pool.yaml")


def test_a_value_that_is_no_option_rejects_its_record_alone(tmp_path, manifest, instructions, prep, write_lines):
    rows = read(manifest)
    rows[2]["metadata"]["gender"] = "robot"
    out = tmp_path / "described.jsonl"
    prep(describe, "--manifest", write_lines("odd.jsonl", rows), "--out", out, "--instructions", instructions)
    (rejected,) = read(tmp_path / "described.rejected.jsonl")
    assert len(read(out)) == 7 and rejected["id"] == "clip2" and "gender is 'robot'" in rejected["reason"]


@pytest.mark.parametrize("value", ["Femal", ["female"], 3])
def test_a_value_that_is_no_option_is_refused(value):
    with pytest.raises(UserError, match=rf"record a: gender is {re.escape(repr(value))}.*female, male"):
        describe.describe({**RECORD, "metadata": {"gender": value}}, DEMO, MIXED, 1, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attributes: [", "not YAML"),
        ("attributes: {}", "attributes: .*at least 1"),
        ("irrelevent: [x]", r"unknown key irrelevent; did you mean irrelevant\?; attributes is missing$"),
        ("- a", r"the file: expected a mapping \(key: value\), found a list$"),
        ("irrelevant: [x]\nirrelevant: [y]", "key 'irrelevant' comes twice.* line 2"),
    ],
)
def test_a_broken_instruction_file_is_named(text, message, tmp_path):
    path = tmp_path / "instructions.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        Instructions.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calm": "It is so.", "angry": "it is  so"}, "the statements 'It is so.' and 'it is  so' are one"),
        ({"calm": "It is calm.", "Calm": "It is Calm!"}, "the options 'calm' and 'Calm' are one"),
        ({"calm": "It is calm.", "angry": " "}, "one of the statements is empty"),
    ],
)
def test_options_that_are_one_are_refused(tmp_path, options, message):
    """Otherwise a hint that should mislead would be true."""
    mood = {"name": "Mood", "questions": ["Calm or angry?"], "options": options}
    (tmp_path / "i.yaml").write_text(json.dumps({"attributes": {"mood": mood}}))
    with pytest.raises(UserError, match=rf"attributes\.mood: .*{re.escape(message)}"):
        Instructions.load(tmp_path / "i.yaml")


def test_adversarial_hints_name_every_wrong_option():
    record = {"id": "a", "metadata": {"accent": "british"}}
    asked = ask(DEMO, record, "accent", Random(0))
    hints = {hint(DEMO, asked, "adversarial", Random(seed)) for seed in range(20)}
    assert hints == {"The accent is american.", "The accent is scottish."}


def test_steps_over_a_corpus_say_how_far_they_are(tmp_path, manifest, instructions, prep, capsys):
    rules = tmp_path / "rules.yaml"
    rules.write_text("[{name: all, hash_of: voice}]")
    prep(describe, "--manifest", manifest, "--out", tmp_path / "described.jsonl", "--instructions", instructions)
    prep(split, "--manifest", manifest, "--out", tmp_path / "splits", "--rules", rules)
    prep(conflict_benchmark, "--manifest", manifest, "--instructions", instructions, "--out", tmp_path / "benchmark")
    said = capsys.readouterr().err
    assert all(f"{step}: 8/8 (" in said for step in ("describe", "split", "benchmark gender", "benchmark accent"))


def test_describe_says_which_labels_are_asked_about_which_are_not_and_what_it_rejects(
    tmp_path, manifest, instructions, prep, capsys
):
    rows = read(manifest)
    rows[1]["metadata"]["gender"] = "Female"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "described.jsonl"
    arguments = ("--manifest", manifest, "--out", out, "--instructions", instructions, "--questions-per-audio", 2)
    assert prep(describe, *arguments, "--attributes", "gender", "noise") == 0
    said, stderr = capsys.readouterr()
    assert "gender: male 4, female 3\n" in said and "noise: noisy 7; no prompt for clean\n" in said
    assert "clip1: record clip1: gender is 'Female', which the instruction file does not know" in stderr


def test_a_record_with_few_attributes_is_not_asked_the_same_twice(tmp_path, manifest, instructions, prep):
    rows = read(manifest)
    for row in rows:
        row["metadata"] = {"gender": row["metadata"]["gender"]}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "described.jsonl"
    arguments = ("--manifest", manifest, "--out", out, "--instructions", instructions, "--questions-per-audio", 8)
    assert prep(describe, *arguments, "--attributes", "gender", "--hints", "none=1") == 0
    asked = [(row["audios"][0]["path"], row["messages"][0]["content"]) for row in read(out)]
    assert len(rows) < len(asked) == len(set(asked)) < 8 * len(rows)


def test_an_attribute_that_is_no_column_is_named_with_the_columns(tmp_path, manifest, prep, capsys):
    file = tmp_path / "mine.yaml"
    other = "  sex: {name: Sex, questions: ['Female or male?'], options: {female: She is female., male: He is male.}}\n"
    file.write_text(POOL.replace("facts:", other + "facts:"))
    columns = "no record has 'sex'; the columns are accent, gender, noise, speaking_rate, voice"
    arguments = ("--manifest", manifest, "--instructions", file)
    prep(describe, *arguments, "--out", tmp_path / "described.jsonl")
    assert f"sex: no prompt, {columns}\n" in capsys.readouterr().out
    prep(conflict_benchmark, *arguments, "--out", tmp_path / "benchmark")
    assert "gender 8, sex 0" in capsys.readouterr().out
