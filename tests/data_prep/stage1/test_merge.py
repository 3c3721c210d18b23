"""Merging the parts of an array job gives the output of a single run; missing or damaged parts are named."""

import pytest

from caad_ds.utils.errors import UserError
from data_prep.stage1 import merge, pseudo_gt
from tests import memory
from tests.data_prep.lines import read
from tests.data_prep.llm import make_llm
from tests.data_prep.questions import question

BLOCKED = ("--engine", "transformers", "--device", "cpu", "--max-new-tokens", 12, "--batch-size", 2, "--system", "")


@pytest.fixture
def parts(prep, source, tmp_path):
    """Answers the manifest in `count` parts, last first, and returns the output to merge."""

    def answer(count: int, *engine: object) -> object:
        out = tmp_path / "merged.jsonl"
        for index in reversed(range(count)):
            arguments = ("--manifest", source, "--out", out, *(engine or ("--engine", "template")))
            prep(pseudo_gt, *arguments, "--shard", f"{index}/{count}")
        return out

    return answer


def whole(out):
    """All that a finished output consists of."""
    return [out.with_name(out.name.replace(".jsonl", end)).read_bytes() for end in
            (".jsonl", ".rejected.jsonl", ".questions.json", ".settings.json")]  # fmt: skip


@pytest.mark.parametrize("count", [1, 3, 45])
def test_merged_parts_equal_one_run(prep, source, parts, tmp_path, count):
    prep(pseudo_gt, "--manifest", source, "--out", tmp_path / "single.jsonl", "--engine", "template")
    out = parts(count)
    assert prep(merge, "--manifest", source, "--out", out) == 0
    assert whole(out) == whole(tmp_path / "single.jsonl")
    assert len(read(out)) == 36 and len(list(tmp_path.glob("merged.0*.settings.json"))) == count


def test_a_manifest_may_be_named_in_several_ways(prep, source, tmp_path, monkeypatch):
    """Its lines without an id are rejected under a name that says nothing of the folder."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "merged.jsonl"
    for name, shard in ((source, "0/2"), (source.name, "1/2"), (source, None)):
        options = ("--shard", shard) if shard else ()
        prep(pseudo_gt, "--manifest", name, "--out", out if shard else "single.jsonl", "--engine", "template", *options)
    prep(merge, "--manifest", source.name, "--out", out)
    assert whole(out) == whole(tmp_path / "single.jsonl")
    assert "described.jsonl line 21" in {row["id"] for row in read(tmp_path / "merged.rejected.jsonl")}


def test_an_llm_forms_the_same_batches_in_parts(prep, source, parts, tmp_path):
    engine = (*BLOCKED, "--model", make_llm(tmp_path / "llm", eager=4), "--dtype", "bfloat16")
    prep(pseudo_gt, "--manifest", source, "--out", tmp_path / "single.jsonl", *engine)
    out = parts(2, *engine)
    prep(merge, "--manifest", source, "--out", out)
    assert whole(out) == whole(tmp_path / "single.jsonl")
    assert all(read(tmp_path / f"merged.0000{index}-of-00002.jsonl") for index in (0, 1))


def test_parts_are_removed_on_request_and_not_made_again(prep, source, parts, capsys):
    out = parts(2)
    prep(merge, "--manifest", source, "--out", out, "--remove-parts")
    before = whole(out)
    assert sorted(path.name for path in out.parent.glob("merged*")) == [
        "merged.jsonl", "merged.questions.json", "merged.rejected.jsonl", "merged.settings.json",
    ]  # fmt: skip
    capsys.readouterr()
    parts(2)
    prep(merge, "--manifest", source, "--out", out)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "already merged, nothing to do" in lines.pop()
    assert all("already finished, nothing to do" in line for line in lines)
    assert whole(out) == before and not list(out.parent.glob("merged.0*"))


def test_missing_parts_are_named(prep, source, parts, tmp_path):
    arguments = ("--manifest", source, "--out", tmp_path / "merged.jsonl")
    with pytest.raises(UserError, match=r"merged\.jsonl: no finished part of it is there; run"):
        prep(merge, *arguments)
    out = parts(4)
    for index in (1, 3):
        (tmp_path / f"merged.0000{index}-of-00004.settings.json").unlink()
    with pytest.raises(UserError, match="not finished: shard 1/4, 3/4; run"):
        prep(merge, *arguments)
    parts(4)
    (tmp_path / "merged.00002-of-00004.jsonl").unlink()
    with pytest.raises(UserError, match="not finished: shard 2/4; run"):
        prep(merge, *arguments)
    assert not out.exists()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda lines: lines[:-1], "record 'clip38' is not in its place"),
        (lambda lines: [*lines[:4], *lines[5:]], "is not in its place"),
        (lambda lines: [*lines, lines[-1]], "record 'clip38' is there twice"),
        (lambda lines: [*lines[:4], lines[4], *lines[4:]], "is not in its place"),
        (lambda lines: [*lines, b'{"another": "row"}'], "record None is there twice, or not of this part"),
        (lambda lines: [lines[0].replace(b'"audios"', b'"audio"'), *lines[1:]], "field 'audios' is missing or empty"),
        (lambda lines: [*lines, b"{"], "line 20: it is not JSON"),
    ],
)
def test_a_damaged_part_is_named(prep, source, parts, tmp_path, damage, expected):
    out = parts(2)
    part = tmp_path / "merged.00000-of-00002.jsonl"
    part.write_bytes(b"\n".join(damage(part.read_bytes().splitlines())) + b"\n")
    with pytest.raises(UserError, match=expected) as caught:
        prep(merge, "--manifest", source, "--out", out)
    assert str(part) in str(caught.value) and not out.exists()
    if "JSON" not in expected:
        assert "remove" in str(caught.value) and "answer --shard 0/2 again" in str(caught.value)


def test_parts_of_other_settings_or_divisions_do_not_mix(prep, source, parts, tmp_path, write_lines):
    out = parts(2)
    one = ("--manifest", source, "--out", out, "--engine", "template", "--max-words", 50, "--shard", "1/2")
    for path in tmp_path.glob("merged.00001-of-00002.*"):
        path.unlink()
    prep(pseudo_gt, *one)
    with pytest.raises(UserError, match=r"00001-of-00002\.settings\.json: another max_words than in merged\.00000"):
        prep(merge, "--manifest", source, "--out", out)
    other = write_lines("other.jsonl", [question(0)])
    for path in tmp_path.glob("merged.00001-of-00002.*"):
        path.unlink()
    parts(2)
    with pytest.raises(
        UserError, match=r"other\.jsonl: the answers for .*merged\.jsonl were made from another manifest"
    ):
        prep(merge, "--manifest", other, "--out", out)
    parts(3)
    with pytest.raises(UserError, match="there are parts of 2 and of 3 shards"):
        prep(merge, "--manifest", source, "--out", out)


def test_no_answer_at_all_is_an_error(prep, tmp_path, write_lines):
    source, out = write_lines("bad.jsonl", [question(0) | {"metadata": {}}]), tmp_path / "merged.jsonl"
    for index in range(2):
        prep(pseudo_gt, "--manifest", source, "--out", out, "--engine", "template", "--shard", f"{index}/2")
    with pytest.raises(UserError, match="no record was answered, the first of 1: clip0: record: its prompt"):
        prep(merge, "--manifest", source, "--out", out)
    assert not out.exists()


def test_memory_holds_an_id_and_a_place_per_record(prep, tmp_path, write_lines):
    def peak(attempt: int, count: int) -> int:
        out = tmp_path / f"{count}.{attempt}.jsonl"
        source = write_lines(f"{count}.jsonl", ({**question(number), "x": "y" * 900} for number in range(count)))
        with memory.traced():
            prep(pseudo_gt, "--manifest", source, "--out", out, "--engine", "template", "--shard", "0/1")
            prep(merge, "--manifest", source, "--out", out)
            return memory.peak()

    # A record as a dictionary takes thousands of bytes.
    assert memory.in_one_attempt(lambda attempt: peak(attempt, 2700) - peak(attempt, 1200) < 500 * 1500)
