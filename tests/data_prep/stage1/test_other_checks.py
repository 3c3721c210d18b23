"""Finished answers are judged by other checks without asking the engine, and give what one run under these gives."""

import pytest

from caad_ds.utils.errors import UserError
from data_prep.stage1 import merge, pseudo_gt
from data_prep.stage1.engines import template
from tests.data_prep.lines import read
from tests.data_prep.questions import question

STRICT = ("--max-words", 6)
ENDS = (".jsonl", ".rejected.jsonl", ".questions.json", ".settings.json")


@pytest.fixture
def answer(prep, source, tmp_path):
    """Answers the manifest of all that a line can be, into a file of that name."""

    def run(name: str, *options: object):
        out = tmp_path / name
        prep(pseudo_gt, "--manifest", source, "--out", out, "--engine", "template", *options)
        return out

    return run


@pytest.fixture
def no_engine(monkeypatch):
    """Calling it makes the engine one that must not be asked."""

    class Silent:
        def answers(self, blocks, done):
            pytest.fail("the engine was asked")

    return lambda: monkeypatch.setattr(template, "TemplateEngine", Silent)


def whole(out):
    return [out.with_name(out.name.replace(".jsonl", end)).read_bytes() for end in ENDS]


def test_a_rejected_answer_is_listed_with_its_text(answer, tmp_path):
    answer("answered.jsonl")
    rejected = read(tmp_path / "answered.rejected.jsonl")
    assert [row.get("response") for row in rejected if row["id"] == "clip9"] == ["As an AI, I pass."]
    assert [set(row) for row in rejected if row["id"] == "clip5"] == [{"id", "reason"}] * 2


def test_other_checks_ask_no_engine(answer, no_engine, tmp_path):
    checks = tmp_path / "checks.yaml"
    checks.write_text("person:\n  - clip1\\b\n")
    ways = {"strict": STRICT, "other": ("--checks", checks), "plain": ()}
    fresh = {name: whole(answer(f"{name}.jsonl", *options)) for name, options in ways.items()}
    out = answer("again.jsonl")
    no_engine()
    for name in ("strict", "other", "plain", "strict"):
        answer("again.jsonl", *ways[name])
        assert whole(out) == fresh[name]
    assert len({len(read(tmp_path / f"{name}.jsonl")) for name in ways}) == 3
    assert not list(tmp_path.glob("again.partial.jsonl"))


@pytest.mark.parametrize("moment", ["write_manifest", "write_json", "Rejects.__exit__"])
def test_a_kill_while_they_are_judged_loses_no_answer(answer, no_engine, monkeypatch, moment):
    fresh, out = whole(answer("strict.jsonl", *STRICT)), answer("again.jsonl")
    no_engine()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"data_prep.stage1.pseudo_gt.{moment}", killed)
        answer("again.jsonl", *STRICT)
    answer("again.jsonl", *STRICT)
    assert whole(out) == fresh


def test_checks_that_reject_all_lose_no_answer(no_engine, tmp_path, prep, write_lines):
    few = write_lines("few.jsonl", [question(number) for number in range(4)])
    arguments = ("--manifest", few, "--out", tmp_path / "few.answered.jsonl")
    prep(pseudo_gt, *arguments, "--engine", "template")
    before = (tmp_path / "few.answered.jsonl").read_bytes()
    no_engine()
    with pytest.raises(UserError, match="no record was answered"):
        prep(pseudo_gt, *arguments, "--engine", "template", "--max-words", 1)
    prep(pseudo_gt, *arguments, "--engine", "template")
    assert (tmp_path / "few.answered.jsonl").read_bytes() == before


def test_parts_and_what_they_merge_to_are_judged_anew(answer, no_engine, prep, source):
    fresh = whole(answer("strict.jsonl", *STRICT)), whole(answer("plain.jsonl"))
    for index in (0, 1):
        out = answer("again.jsonl", "--shard", f"{index}/2")
    no_engine()
    answer("again.jsonl", *STRICT, "--shard", "0/2")
    with pytest.raises(UserError, match="another max_words than in"):
        prep(merge, "--manifest", source, "--out", out)
    answer("again.jsonl", *STRICT, "--shard", "1/2")
    prep(merge, "--manifest", source, "--out", out, "--remove-parts")
    assert whole(out) == fresh[0]
    with pytest.raises(UserError, match="already merged; to apply other checks, run without --shard"):
        answer("again.jsonl", "--shard", "1/2")
    answer("again.jsonl")
    assert whole(out) == fresh[1]


def test_an_output_that_was_edited_is_not_judged(answer, no_engine):
    out = answer("again.jsonl")
    rows = out.read_bytes().splitlines(keepends=True)
    edited = b"".join([*rows[:7], *rows[8:]])
    out.write_bytes(edited)
    no_engine()
    with pytest.raises(UserError, match=r"is not in its place; remove .*again\.settings\.json to answer again"):
        answer("again.jsonl", *STRICT)
    assert out.read_bytes() == edited
