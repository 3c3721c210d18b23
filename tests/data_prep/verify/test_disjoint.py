"""Speakers that are trained on and tested: `prep verify --against` names them."""

import json

import pytest

from caad_ds import cli
from data_prep.common.manifest import load_manifest, write_manifest
from data_prep.pack.pack import pack

RULES = "attributes: {mood: {name: Mood, questions: [Which], options: {calm: It is calm., sad: It is sad.}}}"
TURN = {"role": "user", "content": "<start_audio><|AUDIO|><end_audio>\nWho speaks?"}


@pytest.fixture
def records(tone, write_lines, tmp_path):
    """Clips of six speakers, two of each, as ingested."""
    rows = []
    for number in range(12):
        tone(f"clips/{number}.wav", 0.3 + number / 20)
        audios = [{"path": f"clips/{number}.wav", "text": "hello", "duration": 0.3}]
        metadata = {"speaker": f"s{number // 2}", "room": number % 2, "mood": "calm" if number % 3 else "sad"}
        rows.append({"id": f"c{number}", "audios": audios, "metadata": metadata})
    return load_manifest(write_lines("all.jsonl", rows))


@pytest.fixture
def shards(records, tmp_path):
    """Shards of the speakers s0 to s3."""
    answered = [{**record, "messages": [TURN], "response": "A tone."} for record in records[:8]]
    write_manifest(tmp_path / "answered.jsonl", answered)
    pack(tmp_path / "answered.jsonl", tmp_path / "shards", shard_bytes=20_000)
    return tmp_path / "shards"


@pytest.fixture
def held_out(tmp_path, records, monkeypatch):
    """Writes some of the clips as a conflict benchmark, a manifest, or shards, and returns its path."""

    def write(form, chosen):
        (tmp_path / "i.yaml").write_text(RULES)
        write_manifest(tmp_path / "held.jsonl", [{**r, "messages": [TURN], "response": "Yes."} for r in chosen])
        if form == "benchmark":
            arguments = ["--instructions", str(tmp_path / "i.yaml"), "--out", str(tmp_path / form)]
            assert cli.main(["prep", "conflict-benchmark", "--manifest", str(tmp_path / "held.jsonl"), *arguments]) == 0
        elif form == "shards":
            pack(tmp_path / "held.jsonl", tmp_path / "held")
        return tmp_path / {"benchmark": form, "shards": "held", "manifest": "held.jsonl"}[form]

    return write


@pytest.fixture
def verify(shards, capsys):
    """Run `prep verify`; returns its exit status and output."""

    def run(*arguments):
        capsys.readouterr()
        status = cli.main(["prep", "verify", str(shards), *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.mark.parametrize("form", ["benchmark", "manifest", "shards"])
def test_a_speaker_on_both_sides_is_named_and_counted(form, records, held_out, verify):
    path = held_out(form, [{**row, "metadata": {**row["metadata"], "speaker": "s2"}} for row in records[8:10]])
    status, said = verify("--against", path)
    message = f"{path}: 1 of its 1 values of 'speaker' are in the shards too, in 2 of 8 samples: s2"
    assert status == 1 and message in said.splitlines()
    assert verify("--against", path, "--disjoint")[0] == 0


@pytest.mark.parametrize(
    ("trained", "tested"),
    [(17, 17.0), ("17", 17.0), ("17.0", 17), ("Jos\u00e9", "Jose\u0301"), ("Ann", " Ann"), ("Ann", "\u200fAnn\u200b")],
)
def test_a_speaker_who_is_written_in_two_ways_is_one(trained, tested, tmp_path, records, held_out, capsys):
    answered = [{**row, "messages": [TURN], "response": "A tone."} for row in records[:8]]
    answered[3]["metadata"] = {"speaker": trained}
    write_manifest(tmp_path / "answered.jsonl", answered)
    pack(tmp_path / "answered.jsonl", tmp_path / "two_ways")
    path = held_out("manifest", [{**row, "metadata": {"speaker": tested}} for row in records[8:10]])
    status = cli.main(["prep", "verify", str(tmp_path / "two_ways"), "--against", str(path)])
    said = capsys.readouterr().out
    assert status == 1 and "1 of its 1 values of 'speaker' are in the shards too, in 1 of 8 samples" in said


@pytest.mark.parametrize("form", ["benchmark", "manifest", "shards"])
def test_speakers_apart_are_no_fault_and_another_column_can_be_asked_for(form, records, held_out, verify):
    path = held_out(form, records[8:])
    status, said = verify("--against", path)
    assert status == 0 and f"nothing in common with {path} in speaker (4 here, 2 there)" in said
    status, said = verify("--against", path, "--disjoint", "speaker", "room")
    assert status == 1
    assert f"{path}: 2 of its 2 values of 'room' are in the shards too, in 8 of 8 samples: 0, 1" in said
    status, said = verify("--against", path, "--disjoint", "house")
    assert status == 1 and f"{path}: it cannot be compared by 'house': the shards have no such metadata" in said


def test_that_nothing_could_be_compared_is_reported(records, held_out, verify):
    path = held_out("manifest", [{**record, "metadata": {}} for record in records[8:]])
    status, said = verify("--against", path)
    assert status == 0 and f"speakers not compared with {path}: no column speaker, speaker_id" in said
    status, said = verify("--against", path, "--disjoint", "speaker")
    assert status == 1 and "it cannot be compared by 'speaker': it has no such metadata" in said


def test_columns_without_what_to_compare_with_are_refused(verify):
    status, said = verify("--disjoint", "speaker")
    assert status == 2 and "--disjoint compares with what --against names" in said


def test_a_benchmark_holds_what_is_known_of_its_clips_and_not_of_another_prompt(records, held_out):
    prompt = {"kind": "attribute", "condition": "none", "question": "Who?", "statement": "She."}
    rows = [{**row, "metadata": {**row["metadata"], "prompt": prompt}} for row in records[8:]]
    (mood,) = held_out("benchmark", rows).iterdir()
    held = json.loads((mood / "mood.json").read_text())
    assert len(held) == 4 and all(row["metadata"].keys() == {"speaker", "room", "mood"} for row in held)
