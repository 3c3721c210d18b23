"""Which answers are rejected, by which rule."""

from collections import Counter

import pytest

from caad_ds.utils.errors import UserError
from data_prep.stage1 import pseudo_gt
from data_prep.stage1.answer_checks import AnswerChecks, rule_of
from tests.data_prep.lines import read
from tests.data_prep.questions import prompt, question

BAD = {
    "": "empty",
    " \n": "empty",
    "I'm sorry, but I can't listen to audio.": "refusal",
    "I’m sorry, I cannot hear it.": "refusal",
    "As an AI language model, I do not listen.": "refusal",
    "Unfortunately I am unable to tell.": "refusal",
    "I'm just a text-based assistant.": "refusal",
    "I'm just a computer program.": "refusal",
    "Sorry, I can't do that.": "refusal",
    "Sorry, but I'm unable to do that.": "refusal",
    "Unfortunately, I don't have any audio to work with.": "refusal",
    "I can't tell you how old the speaker is.": "refusal",
    "I cannot help you with that.": "refusal",
    "I'm not able to hear anything.": "refusal",
    "The seed description says that she is calm.": "leak",
    "From the metadata, the speaker is female.": "leak",
    "In the transcript you provided, a dog barks.": "leak",
    "According to the description, she is calm.": "leak",
    "[00:00-00:02] hello": "leak",
    "She is calm (Gender: female, Emotion: happy).": "leak",
    "(Gender: female, Emotion: happy)": "leak",
    "hello (Speaking rate: fast)": "leak",
    "The text says that the speaker is female.": "leak",
    "The transcription does not mention a mood.": "leak",
    "The seed descriptions say so": "leak",
    "She is calm.<|eot_id|>": "markup",
    "<think>hm</think> She is calm.": "markup",
}
GOOD = [
    "She is calm.",
    "I'm sorry to hear that your dog ran away! When did you see it last?",
    "The speaker can't be older than thirty.",
    "I can't help but feel sorry for you.",
    "I can't help wondering why.",
    "I cannot tell you how happy I am for you!",
    "I could not hear you, can you say that again?",
    "I'm unable to make it tonight, sorry!",
    "Sorry, I was late. I don't have the time.",
    "She (a nurse) asks: who is there?",
    "Read the text to me.",
    "He describes a garden.",
    "Her description of the garden is vivid.",
    "It was recorded at 00:04 or so.",
]


@pytest.mark.parametrize(("response", "rule"), BAD.items())
def test_what_is_no_answer_is_named_by_its_rule(response, rule):
    assert rule_of(AnswerChecks().reason(response)) == rule


@pytest.mark.parametrize("response", GOOD)
def test_plain_answers_pass(response):
    assert AnswerChecks().reason(response) == ""


def answered(prep, tmp_path, write_lines, statements, *options):
    """Run the command; returns its rows, the rejected ones by id, and its output."""
    rows = [question(number) | {"metadata": prompt("Who?", text)} for number, text in enumerate(statements)]
    out = tmp_path / "answered.jsonl"
    source = write_lines("described.jsonl", rows)
    prep(pseudo_gt, "--manifest", source, "--out", out, "--engine", "template", *options)
    rejected = tmp_path / "answered.rejected.jsonl"
    return read(out), {row["id"]: row["reason"] for row in (read(rejected) if rejected.exists() else ())}


def test_rejected_answers_are_listed_and_counted_by_rule(tmp_path, prep, write_lines, capsys):
    statements = ["She is calm.", "From the metadata: calm.", "As an AI, no.", "one two three four", "I cannot tell."]
    rows, rejected = answered(prep, tmp_path, write_lines, statements, "--max-words", 3)
    assert [row["response"] for row in rows] == ["She is calm."]
    assert Counter(map(rule_of, rejected.values())) == {"over_long": 3, "refusal": 1}
    assert "4 words are more than 3" in rejected["clip1"]
    assert "1 answered; 4 rejected (3 over_long, 1 refusal), see " in capsys.readouterr().out


def test_the_rules_are_a_file_of_the_user(tmp_path, prep, write_lines):
    checks = tmp_path / "checks.yaml"
    checks.write_text("greeting:\n  - ^hello\\b\n")
    statements = ["Hello there.", "From the metadata: calm."]
    rows, rejected = answered(prep, tmp_path, write_lines, statements, "--checks", checks)
    assert [row["id"] for row in rows] == ["clip1"]
    assert rejected == {"clip0": "greeting: it says 'Hello'"}
    checks.write_text("greeting:\n  - ^hi\\b\n")
    rows, rejected = answered(prep, tmp_path, write_lines, statements, "--checks", checks)
    assert len(rows) == 2 and not rejected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("refusal: ['(']", r"checks.yaml: refusal: '\(' is no regular expression"),
        ("refusal: sorry", "checks.yaml: refusal: expected a list, found 'sorry'"),
        ("refusal: [", "checks.yaml: it is not YAML"),
        (None, "checks.yaml: cannot be read"),
    ],
)
def test_a_broken_file_of_rules_is_named(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "checks.yaml").write_text(text)
    with pytest.raises(UserError, match=expected):
        AnswerChecks(tmp_path / "checks.yaml")
