"""Sources become manifests; what cannot be used is listed with its reason."""

import fcntl
import os
import subprocess
from contextlib import ExitStack
from threading import Timer

import numpy as np
import pytest
import soundfile

from caad_ds.data.audio.decode import examine
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import sole_writer
from data_prep.common.manifest import load_manifest, write_manifest
from data_prep.ingest import ingest, sources
from data_prep.pack.pack import pack
from data_prep.synthetic import synthesize as synthesis
from tests.data_prep.lines import read
from tests.tolerance import LEAST_BIT

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
    (audio,) = record["audios"]
    expected_audio = {"path": "a.wav", "text": "" if row is DESTA25 else "hello", "duration": 1.2}
    assert {name: audio[name] for name in expected_audio} == expected_audio
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
    with pytest.raises(UserError, match=r"gave no usable record, the first of 1: .*absent\.wav does not decode"):
        prep(ingest, "jsonl", "--root", rows, "--out", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"audio": ', "it is not JSON"),
        ("[1]", "a record must be a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"audio": "a.wav", "n": ' + "9" * 5000 + "}", "it is not JSON (Exceeds the limit"),
        ('{"audio": "a.wav", "n": NaN}', "it is not JSON (NaN is no number)"),
        ('{"audio": "a.wav", "n": -1e999}', "it is not JSON (-1e999 is beyond floating point)"),
        ('{"audio": "a.wav", "id": "\udcff"}'.encode("utf-8", "surrogateescape"), "it is not UTF-8 text"),
        ('{"text": "no audio"}', "it names no audio"),
        ('{"audios": [{"text": "x"}]}', "an audio must be an object"),
        ('{"audio": "a.wav", "messages": "hi"}', "field 'messages' must be a list"),
        ('{"audio": "a.wav", "messages": [{"role": "user", "content": "hi"}]}', "hold 0 <|AUDIO|> but 'audios' has 1"),
        ('{"audio": "a.wav", "metadata": 3}', "field 'metadata' must be an object"),
        ('{"audio": "a.wav", "text": 3}', "'text' of an audio must be a text"),
        ('{"audio": "a.wav", "text": "a <|AUDIO|> b"}', "'text' of an audio holds '<|AUDIO|>', which marks"),
        ('{"audio": "a.wav", "response": "<end_audio>"}', "'response' holds '<end_audio>', which marks audio in a"),
        ('{"audio": "a\\u0000.wav"}', "each of 'audios' must be an object with a 'path'"),
        ('{"messages": [{"role": "user", "content": "hi", "audios": 3}]}', "'audios' of a message must be a list"),
    ],
)
def test_a_bad_line_is_named_and_stops_no_other(row, reason, tmp_path, tone, prep):
    tone("a.wav")
    listing, out = tmp_path / "own.jsonl", tmp_path / "out.jsonl"
    good = [b'{"audio": "a.wav", "id": "%d"}' % number for number in range(3)]
    listing.write_bytes(b"\n".join([*good[:2], row if isinstance(row, bytes) else row.encode(), good[2]]))
    prep(ingest, "jsonl", "--root", listing, "--out", out)
    assert [record["id"] for record in read(out)] == ["0", "1", "2"]
    (rejected,) = read(tmp_path / "out.rejected.jsonl")
    assert rejected["id"] == "own.jsonl line 3" and reason in rejected["reason"]


def test_whatever_a_corpus_holds_is_taken_or_listed(tmp_path, tone, prep, write_lines, capsys):
    """One of each kind of trouble between two good clips."""
    tone("corpus/good.wav"), tone("corpus/straße und Ä.wav"), tone("outside.wav")
    tone("corpus/stereo.ogg", 1.0, 44_100), tone("corpus/empty.wav", 0)
    soundfile.write(tmp_path / "corpus/stereo.mp3", 0.1 * np.ones((44_100, 2)), 44_100)
    soundfile.write(tmp_path / "corpus/hours.flac", np.zeros(3 * 3600 * 8000, "int16"), 8000)
    soundfile.write(tmp_path / "corpus/nan.wav", np.full(800, np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "corpus/no_bytes.wav").touch()
    (tmp_path / "corpus/text.wav").write_text("no audio")
    (tmp_path / "corpus/link.wav").symlink_to(tmp_path / "outside.wav")
    (tmp_path / "corpus/inside.wav").symlink_to("good.wav")
    (tmp_path / "corpus/loop.wav").symlink_to("loop.wav")
    whole = (tmp_path / "corpus/good.wav").read_bytes()
    (tmp_path / "corpus/broken.wav").write_bytes(whole[:20])
    (tmp_path / "corpus/cut.wav").write_bytes(whole[: len(whole) // 3])
    soundfile.write(tmp_path / "whole.mp3", 0.1 * np.sin(np.arange(441_000) * 0.05), 44_100)
    mp3 = (tmp_path / "whole.mp3").read_bytes()
    (tmp_path / "corpus/cut.mp3").write_bytes(mp3[: len(mp3) // 3])
    names = ["good.wav", "straße und Ä.wav", "stereo.ogg", "stereo.mp3", "inside.wav", "../outside.wav"]
    bad = ["empty.wav", "hours.flac", "nan.wav", "no_bytes.wav", "text.wav", "link.wav", "broken.wav", "x" * 300]
    bad += ["cut.wav", "cut.mp3", "loop.wav"]
    rows = [{"id": name, "audio": name} for name in [*names[:3], *bad, *names[3:]]]
    listing, out = write_lines("corpus/own.jsonl", [*rows, rows[0]]), tmp_path / "out/all.jsonl"
    assert prep(ingest, "jsonl", "--root", listing, "--out", out) == 0
    assert {record["id"] for record in read(out)} == set(names)
    rejected = {row["id"]: row["reason"] for row in read(tmp_path / "out/all.rejected.jsonl")}
    assert set(rejected) == {*bad, "good.wav"}
    for name, reason in {
        "empty.wav": "the audio is empty",
        "hours.flac": "lasts 10800.00 s, more than 30 s",
        "nan.wav": "not finite",
        "link.wav": "a link that leads out of the root",
        "x" * 300: "File name too long",
        "cut.wav": "the file is cut short",
        "cut.mp3": "of 10.00 s",
        "loop.wav": "there is no such file",
        "good.wav": "an earlier record has this id",
    }.items():
        assert reason in rejected[name]
    assert "6 records, 0.00 hours, 6 without text" in (said := capsys.readouterr().out) and "12 rejected" in said
    prep(ingest, "jsonl", "--root", listing, "--out", out, "--follow-links")
    assert "link.wav" in {record["id"] for record in read(out)}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "all.jsonl",
        "all.rejected.jsonl",
        "all.settings.json",
    ]


@pytest.mark.parametrize("policy", ["truncate", "split"])
def test_long_audio_is_cut_where_asked_and_packed_as_cut(policy, tmp_path, write_lines, prep, capsys):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)  # where a cut one sample beside shows
    soundfile.write(tmp_path / "noise.wav", wave, 16_000, subtype="PCM_16")
    rows = [
        {"id": "long", "audio": "noise.wav", "text": "all of it", "speaker": "a"},
        {"id": "answered", "audio": "noise.wav", "response": "An answer."},
    ]
    out = tmp_path / "cut.jsonl"
    arguments = ("--root", write_lines("own.jsonl", rows), "--out", out, "--max-seconds", 1, "--too-long", policy)
    prep(ingest, "jsonl", *arguments)
    assert f"1 too long and cut ({policy}); 1 rejected" in capsys.readouterr().out
    assert "'response' speaks of the whole audio" in read(tmp_path / "cut.rejected.jsonl")[0]["reason"]
    records = read(out)
    spans = [(record["audios"][0]["offset"], record["audios"][0]["duration"]) for record in records]
    expected = {"truncate": [(0.0, 1.0)], "split": [(0.0, 0.8333), (0.8333, 0.8333), (1.6667, 0.8333)]}
    assert spans == expected[policy]
    assert all(record["audios"][0]["text"] == "" and record["metadata"] == {"speaker": "a"} for record in records)
    assert len({record["id"] for record in records}) == len(records)
    turn = [{"role": "user", "content": USER}]
    write_manifest(out, [{**record, "messages": turn, "response": "x"} for record in load_manifest(out)])
    pack(out, tmp_path / "shards")
    samples = list(IndexedReader(tmp_path / "shards"))
    for sample, (start, seconds) in zip(samples, spans, strict=True):
        cut = wave[round(start * 16_000) :][: round(seconds * 16_000)]
        np.testing.assert_allclose(sample.waveforms[0], cut, atol=2 * LEAST_BIT)  # written twice
        assert "offset" not in sample.record["audios"][0]


def test_a_killed_ingest_goes_on_and_ends_as_if_it_had_not_been(tmp_path, write_lines, prep, monkeypatch, tone):
    tone("a.wav")
    rows = [{"id": str(number), "audio": "absent.wav" if number % 5 == 0 else "a.wav"} for number in range(30)]
    listing = write_lines("own.jsonl", [*rows, rows[3], "{"])
    whole, out = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    prep(ingest, "jsonl", "--root", listing, "--out", whole)
    probed = []

    def dying(path):
        probed.append(path)
        if len(probed) == 12:
            raise KeyboardInterrupt
        return examine(path)

    monkeypatch.setattr(ingest, "examine", dying)
    with pytest.raises(KeyboardInterrupt):
        prep(ingest, "jsonl", "--root", listing, "--out", out)
    with open(tmp_path / "killed.partial.jsonl", "a") as journal:
        journal.write('{"id": "cut sh')
    prep(ingest, "jsonl", "--root", listing, "--out", out)
    assert out.read_bytes() == whole.read_bytes() and len(probed) == 30 + 1 and len(read(out)) == 24
    assert (tmp_path / "killed.rejected.jsonl").read_bytes() == (tmp_path / "whole.rejected.jsonl").read_bytes()
    assert not (tmp_path / "killed.partial.jsonl").exists()


def test_what_was_settled_under_other_rules_or_of_another_corpus_is_not_mixed_in(tmp_path, write_lines, tone, prep):
    tone("a.wav")
    listing, out = write_lines("own.jsonl", [{"id": "a", "audio": "a.wav"}]), tmp_path / "out.jsonl"
    prep(ingest, "jsonl", "--root", listing, "--out", out)
    write_lines("own.jsonl", [{"id": "a", "audio": "a.wav", "label": "another"}])
    settings = {"source": "jsonl", "root": str(listing), "max_seconds": "30.0", "too_long": "reject"}
    settled = {"id": "a", "hash": "of another label", "kept": [], "reason": "x", "cut": False}
    write_lines("out.partial.jsonl", [{**settings, "follow_links": "False"}, settled])
    with pytest.raises(UserError, match="the corpus has changed since 'a' was ingested; remove this file"):
        prep(ingest, "jsonl", "--root", listing, "--out", out)
    with pytest.raises(UserError, match="made with another max_seconds; choose another --out"):
        prep(ingest, "jsonl", "--root", listing, "--out", out, "--max-seconds", 3)


def test_a_finished_ingest_is_left_alone_until_the_corpus_changes(tmp_path, write_lines, tone, prep, capsys):
    path, stamp = tone("a.wav"), tmp_path / "out.settings.json"
    listing, out = write_lines("own.jsonl", [{"id": "a", "audio": "a.wav"}]), tmp_path / "out.jsonl"
    prep(ingest, "jsonl", "--root", listing, "--out", out)
    path.unlink()
    prep(ingest, "jsonl", "--root", listing, "--out", out)
    assert (
        f"already finished, nothing to do; its audio is not opened again, remove {stamp} for" in capsys.readouterr().out
    )
    stamp.unlink()
    with pytest.raises(UserError, match="gave no usable record"):
        prep(ingest, "jsonl", "--root", listing, "--out", out)
    tone("b.wav")
    write_lines("own.jsonl", [{"id": "b", "audio": "b.wav"}])
    prep(ingest, "jsonl", "--root", listing, "--out", out)
    assert [record["id"] for record in read(out)] == ["b"]


def test_two_processes_do_not_write_one_output(tmp_path, write_lines, tone, prep):
    tone("a.wav")
    listing, out = write_lines("own.jsonl", [{"id": "a", "audio": "a.wav"}]), tmp_path / "out.jsonl"
    with sole_writer(tmp_path / "out.partial.jsonl"):
        with pytest.raises(UserError, match=r"another process is writing .*out\.partial\.jsonl: wait until it ends"):
            prep(ingest, "jsonl", "--root", listing, "--out", out)
    prep(ingest, "jsonl", "--root", listing, "--out", out)
    assert len(read(out)) == 1 and not list(tmp_path.glob(".*"))


def test_a_lock_whose_holder_just_ended_is_taken_anew(tmp_path, monkeypatch):
    lock, path = fcntl.flock, tmp_path / "out.jsonl"

    def late(*arguments):
        monkeypatch.undo()
        (tmp_path / ".out.jsonl.lock").unlink()  # as the holder does at its end
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with sole_writer(path):
        with pytest.raises(UserError, match="another process is writing"), sole_writer(path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_requeued_job_waits_for_the_lock_of_the_node_that_it_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    held = ExitStack()
    held.enter_context(sole_writer(tmp_path / "out"))
    Timer(0.3, held.close).start()
    with sole_writer(tmp_path / "out"):
        pass
    monkeypatch.setattr("caad_ds.utils.files.RELEASED_AFTER", 0.2)
    with (
        sole_writer(tmp_path / "out"),
        pytest.raises(UserError, match="another process"),
        sole_writer(tmp_path / "out"),
    ):
        pass


def test_the_source_is_not_written_over(tmp_path, write_lines, tone, prep):
    tone("a.wav")
    listing = write_lines("own.jsonl", [{"id": "a", "audio": "a.wav"}])
    before = listing.read_bytes()
    with pytest.raises(UserError, match="that is what is read; name another file"):
        prep(ingest, "jsonl", "--root", listing, "--out", listing)
    assert listing.read_bytes() == before


def test_a_part_that_takes_the_id_of_another_record_is_reported(tmp_path, write_lines, tone, prep):
    tone("long.wav", 2.0), tone("a.wav")
    listing = write_lines("own.jsonl", [{"id": "x", "audio": "long.wav"}, {"id": "x-s0", "audio": "a.wav"}])
    out = tmp_path / "out.jsonl"
    prep(ingest, "jsonl", "--root", listing, "--out", out, "--max-seconds", 1.5, "--too-long", "split")
    assert [record["id"] for record in read(out)] == ["x-s0", "x-s1"]
    (rejected,) = read(tmp_path / "out.rejected.jsonl")
    assert rejected["id"] == "x-s0" and "an earlier record has this id" in rejected["reason"]


def test_a_byte_order_mark_does_no_harm(tmp_path, tone, prep):
    tone("a.wav")
    (tmp_path / "own.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a", "audio": "a.wav"}\n')
    prep(ingest, "jsonl", "--root", tmp_path / "own.jsonl", "--out", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.rejected.jsonl").exists()


def test_what_a_killed_process_left_is_removed(tmp_path, write_lines, tone, prep):
    tone("a.wav")
    listing, out = write_lines("own.jsonl", [{"id": "a", "audio": "a.wav"}]), tmp_path / "out.jsonl"
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale = [tmp_path / f".out.jsonl.{os.uname().nodename}.{pid}.partial" for pid in (ended.pid, os.getppid())]
    for path in stale:
        path.touch()
    prep(ingest, "jsonl", "--root", listing, "--out", out)
    assert not stale[0].exists() and stale[1].exists()


def test_workers_change_nothing(tmp_path, write_lines, tone, prep):
    for number in range(6):
        tone(f"{number}.wav", 0.5 + number / 10)
    listing = write_lines("own.jsonl", [{"id": str(number), "audio": f"{number % 7}.wav"} for number in range(30)])
    for workers in (1, 2):
        prep(ingest, "jsonl", "--root", listing, "--out", tmp_path / f"{workers}.jsonl", "--workers", workers)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["id", "audio", "text"])
def test_a_line_of_the_demos_corpus_that_lacks_something_is_named(name, tmp_path, write_lines, tone):
    row = {"id": "a", "audio": "a.wav", "text": "hello", "duration": 1.0}
    write_lines("split/metadata.jsonl", [row, {key: value for key, value in row.items() if key != name}])
    tone("split/a.wav", 1.0)
    found = ingest.ingest("demo", tmp_path / "split", tmp_path / "a.jsonl")
    [rejected] = read(tmp_path / "a.rejected.jsonl")
    assert (found.count, found.seconds, found.rejects.count) == (1, 1.0, 1)
    assert rejected["id"] == "metadata.jsonl line 2" and f"no '{name}' in text; remove" in rejected["reason"]
    assert ingest.ingest("demo", tmp_path / "split", tmp_path / "a.jsonl") is None


def test_unknown_source_and_missing_root_are_refused(tmp_path):
    with pytest.raises(UserError, match="demo"):
        sources.get("nothing")
    with pytest.raises(UserError, match="no such folder"):
        ingest.ingest("demo", tmp_path / "nowhere", tmp_path / "a.jsonl")
