"""Sources become manifests; what cannot be used is listed with its reason."""

import pytest
from lines import read

from caad_ds.errors import UserError
from data_prep import ingest, sources
from data_prep import synthesize as synthesis
from data_prep.manifest import read_manifest, write_manifest

USER = "<start_audio><|AUDIO|><end_audio>\nWho speaks?"


def test_demo_split_is_ingested_with_its_attributes(tmp_path, prep):
    synthesis.synthesize(tmp_path, "validation", 2, workers=1)
    assert prep(ingest, "demo", "--root", tmp_path / "validation", "--out", tmp_path / "manifest.jsonl") == 0
    record = read(tmp_path / "manifest.jsonl")[0]
    assert record["audios"][0]["path"] == "validation/validation-00000.wav"
    assert record["audios"][0]["duration"] > 0.5 and record["source"] == "demo"
    assert {"gender", "speaking_rate", "noise", "accent", "voice"} <= record["metadata"].keys()


PLAIN = {"id": 7, "audio": "a.wav", "text": "hello", "gender": "female"}
DESTA25 = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<|AUDIO|>\nWho speaks?", "audios": [{"audio": "a.wav", "text": None}]},
    ],
    "response": "A woman.",
    "category": "gender",
}
DESTA2 = {
    "id": "x",
    "audios": [{"audio_filepath": "a.wav", "transcription": "hello"}],
    "messages": [{"role": "user", "content": USER}],
    "target": "A woman.",
}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (PLAIN, {"id": "7", "metadata": {"gender": "female"}}),
        ({**PLAIN, "metadata": None}, {"id": "7", "metadata": {"gender": "female"}}),
        (
            DESTA25,
            {
                "id": "own-0000001",
                "response": "A woman.",
                "metadata": {"category": "gender"},
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": USER}],
            },
        ),
        (DESTA2, {"id": "x", "response": "A woman.", "messages": [{"role": "user", "content": USER}], "metadata": {}}),
        (
            {
                "id": "r",
                "audios": [{"path": "a.wav", "text": "hello"}],
                "metadata": {"noise": "clean"},
                "source": "mine",
            },
            {"id": "r", "metadata": {"noise": "clean"}, "source": "mine"},
        ),
    ],
    ids=["plain", "plain, no metadata", "desta2.5", "desta2", "record"],
)
def test_each_form_of_jsonl_becomes_the_same_record(row, expected, tmp_path, tone, write_lines, prep):
    tone("a.wav")
    out = tmp_path / "out.jsonl"
    prep(ingest, "jsonl", "--root", write_lines("own.jsonl", [row]), "--out", out)
    (record,) = read(out)
    assert record["audios"] == [{"path": "a.wav", "text": "" if row is DESTA25 else "hello", "duration": 1.2}]
    assert {name: record[name] for name in expected} == expected


def test_long_and_broken_audio_is_rejected_counted_and_listed(tmp_path, tone, write_lines, prep, capsys):
    tone("good.wav"), tone("long.wav", 3.0)
    (tmp_path / "broken.wav").write_bytes(b"RIFF....")
    rows = [{"id": name, "audio": f"{name}.wav"} for name in ("good", "long", "broken", "absent")]
    out = tmp_path / "manifest.jsonl"
    prep(ingest, "jsonl", "--root", write_lines("own.jsonl", rows), "--out", out, "--max-seconds", 2)
    assert [record["id"] for record in read(out)] == ["good"]
    reasons = {row["id"]: row["reason"] for row in read(tmp_path / "manifest.rejected.jsonl")}
    assert set(reasons) == {"long", "broken", "absent"} and "3.00 s, more than 2 s" in reasons["long"]
    assert "3 rejected" in capsys.readouterr().out


def test_nothing_usable_is_an_error_with_the_first_reason(tmp_path, write_lines, prep):
    rows = write_lines("own.jsonl", [{"audio": "absent.wav"}])
    with pytest.raises(UserError, match=r"none is usable.*absent\.wav"):
        prep(ingest, "jsonl", "--root", rows, "--out", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"audio": ', "own.jsonl line 2: it is not JSON"),
        ("[1]", "line 2: a record must be a JSON object"),
        ('{"text": "no audio"}', "line 2: it names no audio"),
        ('{"audios": [{"text": "x"}]}', "line 2: an audio must be an object"),
        ('{"audio": "a.wav", "messages": "hi"}', "line 2: field 'messages' must be a list"),
        ('{"audio": "a.wav", "messages": [{"role": "user", "content": "hi"}]}', "hold 0 .* but 'audios' has 1"),
        ('{"audio": "a.wav", "metadata": 3}', "line 2: field 'metadata' must be an object"),
        ('{"audio": "a.wav", "text": 3}', "line 2: 'text' of an audio must be a text"),
        (
            '{"messages": [{"role": "user", "content": "hi", "audios": 3}]}',
            "line 2: 'audios' of a message must be a list",
        ),
    ],
)
def test_a_bad_line_is_named(row, message, tmp_path, tone, write_lines, prep):
    tone("a.wav")
    listing = write_lines("own.jsonl", [{"audio": "a.wav"}, row])
    with pytest.raises(UserError, match=message):
        prep(ingest, "jsonl", "--root", listing, "--out", tmp_path / "out.jsonl")


@pytest.mark.parametrize("name", ["id", "audio", "text"])
def test_a_line_of_the_demos_corpus_that_lacks_something_is_named(name, tmp_path, write_lines):
    row = {"id": "a", "audio": "a.wav", "text": "hello", "duration": 1.0}
    write_lines("split/metadata.jsonl", [row, {key: value for key, value in row.items() if key != name}])
    with pytest.raises(UserError, match=f"metadata.jsonl line 2: no '{name}' in text; remove"):
        ingest.ingest("demo", tmp_path / "split")


def test_unknown_source_and_missing_root_are_refused(tmp_path):
    with pytest.raises(UserError, match="demo"):
        sources.get("nothing")
    with pytest.raises(UserError, match="no such folder"):
        ingest.ingest("demo", tmp_path / "nowhere")


def test_manifest_paths_survive_a_move_of_the_folder(tmp_path, manifest):
    records = read_manifest(manifest)
    assert all(record["audios"][0]["path"].startswith(str(tmp_path)) for record in records)
    write_manifest(tmp_path / "again.jsonl", records)
    assert read(tmp_path / "again.jsonl") == read(manifest)
    write_manifest(tmp_path / "elsewhere" / "again.jsonl", records)
    assert read_manifest(tmp_path / "elsewhere" / "again.jsonl") == records


def test_a_double_id_names_both_lines(write_lines):
    row = {"id": "a", "audios": [{"path": "a.wav"}]}
    with pytest.raises(UserError, match="line 2: id 'a' is already on line 1"):
        read_manifest(write_lines("twice.jsonl", [row, row]))


def test_a_manifest_is_not_written_over_another_kind_of_file(tmp_path, manifest):
    other = tmp_path / "README.md"
    other.write_text("mine")
    with pytest.raises(UserError, match=r"name a file that ends in \.jsonl"):
        write_manifest(other, read_manifest(manifest))
    assert other.read_text() == "mine"
