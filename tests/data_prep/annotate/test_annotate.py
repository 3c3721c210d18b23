"""Measures in the metadata, classes of them, and a run that is killed, refused or has nothing to measure."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from caad_ds.cli import main
from caad_ds.data.audio.decode import SAMPLE_RATE
from caad_ds.data.instructions import Instructions
from data_prep.annotate import annotate as annotate_module
from data_prep.annotate import annotators
from data_prep.annotate.annotators import brouhaha, snr
from data_prep.annotate.classes import read_scales
from tests.data_prep.lines import read
from tests.data_prep.signals import pulses, voiced
from tests.root import CONFIGS

CLASSES = CONFIGS / "annotate" / "classes.yaml"
SIGNAL = ("duration", "loudness", "pitch", "snr", "speaking_rate")
QUICK = ("duration", "loudness", "speaking_rate")


@pytest.fixture
def annotate(capsys):
    """Runs the command; returns its status, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["prep", "annotate", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def clips(tmp_path, write_lines):
    """Writes a manifest of waveforms, given by record; those given as None have no audio file."""

    def write(waveforms: dict[str, np.ndarray | None], **metadata: object) -> Path:
        rows = []
        for name, waveform in waveforms.items():
            if waveform is not None:
                soundfile.write(tmp_path / f"{name}.wav", waveform, SAMPLE_RATE, subtype="FLOAT")
            rows.append({"id": name, "audios": [{"path": f"{name}.wav", "text": ""}], "metadata": metadata})
        return write_lines("manifest.jsonl", rows)

    return write


def test_numbers_and_classes_go_into_the_metadata_and_what_is_there_stays(tmp_path, clips, annotate):
    waveforms = {"man": voiced(110) + pulses(3, 1.0), "woman": voiced(220, 1.5)}
    manifest, out = clips(waveforms, snr_db="unknown", speaker="s1"), tmp_path / "out.jsonl"
    arguments = ("--manifest", manifest, "--out", out, "--annotators", "duration", "pitch", "snr")
    classes = tmp_path / "classes.yaml"
    classes.write_text("pitch: {of: pitch_hz, labels: [low, medium, high], thresholds: [140, 180]}\n")
    status, printed, _ = annotate(*arguments, "--classes", classes)
    assert status == 0 and "2 records" in printed
    assert "pitch: low (1) < 140 <= medium (0) < 180 <= high (1)" in printed
    man, woman = (row["metadata"] for row in read(out))
    assert woman == {
        "snr_db": "unknown",
        "speaker": "s1",
        "seconds": 1.5,
        "pitch_hz": woman["pitch_hz"],
        "pitch": "high",
    }
    assert man["pitch"] == "low" and man["seconds"] == 1.0
    assert not (tmp_path / "out.missing.jsonl").exists() and not (tmp_path / "out.partial.jsonl").exists()
    over = tmp_path / "over.jsonl"
    annotate(*arguments[:2], "--out", over, *arguments[4:], "--overwrite")
    assert all(isinstance(row["metadata"]["snr_db"], float) for row in read(over))


def test_what_the_corpus_says_is_not_mixed_with_what_is_measured():
    happy = annotate_module.measure({"id": "a", "audios": [], "metadata": {"emotion": "happy"}}, ["emotion2vec"])
    assert happy == annotate_module.Measured("a", {}, {})
    unknown = annotate_module.measure({"id": "a", "audios": [], "metadata": {"emotion": None}}, ["emotion2vec"])
    assert "0 audios" in unknown.missing["emotion2vec"]


def test_what_is_not_measured_is_listed_and_its_record_kept(tmp_path, clips, annotate):
    manifest = clips({"good": pulses(4, 2.0), "short": voiced(120, 0.2), "silent": np.zeros(16_000), "absent": None})
    (tmp_path / "broken.wav").write_bytes(b"RIFF....")
    two = {"id": "two", "audios": [{"path": "good.wav"}, {"path": "short.wav"}], "metadata": {"a": 1}}
    broken = {"id": "broken", "audios": [{"path": "broken.wav"}]}
    part = {"id": "part", "audios": [{"path": "good.wav", "offset": 0.5, "duration": 1.25}]}
    with open(manifest, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in (two, broken, part)) + "{no json\n")
    out = tmp_path / "out.jsonl"
    status, printed, _ = annotate("--manifest", manifest, "--out", out, "--annotators", "duration", "loudness")
    rows = {row["id"]: row for row in read(out)}
    assert status == 0 and list(rows) == ["good", "short", "silent", "absent", "two", "broken", "part"]
    assert rows["good"]["metadata"].keys() == {"seconds", "loudness_lufs"}
    assert rows["short"]["metadata"] == {"seconds": 0.2} and rows["two"]["metadata"] == {"a": 1}
    assert rows["part"]["metadata"]["seconds"] == 1.25
    listed = {(row["id"], row["annotator"]): row["reason"] for row in read(tmp_path / "out.missing.jsonl")}
    assert {name for name, annotator in listed if annotator == "duration"} == {"silent", "absent", "two", "broken"}
    assert {name for name, annotator in listed if annotator == "loudness"} == {
        "short",
        "silent",
        "absent",
        "two",
        "broken",
    }
    assert listed["silent", "duration"].startswith("silent: all its samples are alike")
    assert "too short" in listed["short", "loudness"] and "2 audios" in listed["two", "loudness"]
    assert "broken.wav does not decode" in listed["broken", "duration"]
    assert "7 records; 1 rejected" in printed and "not measured: duration in 4, loudness in 5" in printed
    assert [row["reason"][:14] for row in read(tmp_path / "out.rejected.jsonl")] == ["it is not JSON"]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_leaves_no_process(tmp_path, clips, annotate):
    manifest = clips({f"clip{number}": pulses(2 + number % 5, 2 + number % 3) for number in range(150)})
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = ("--manifest", manifest, "--annotators", *QUICK, "--classes", classes_of_rate(tmp_path))
    assert annotate(*arguments, "--out", whole)[0] == 0
    command = [sys.executable, "-m", "caad_ds.cli", "prep", "annotate", *map(str, arguments), "--out", str(out)]
    process = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / "out.partial.jsonl"
    while process.poll() is None and (not partial.exists() or partial.read_bytes().count(b"\n") < 4):
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists() and 4 <= partial.read_bytes().count(b"\n") < 150
    assert len(workers) >= 2 and not psutil.wait_procs(workers, timeout=20)[1]
    with open(partial, "a", encoding="utf-8") as file:
        file.write('{"id": "clip')  # the line that the kill cut short
    status, printed, _ = annotate(*arguments, "--out", out)
    assert status == 0 and f"{partial}: going on after" in printed
    assert out.read_bytes() == whole.read_bytes()
    before = out.stat().st_mtime_ns
    assert "already finished" in annotate(*arguments, "--out", out)[1] and out.stat().st_mtime_ns == before


def classes_of_rate(folder: Path) -> Path:
    path = folder / "classes.yaml"
    path.write_text("rate: {of: syllables_per_second, labels: [slow, medium, fast], quantiles: [0.25, 0.75]}\n")
    return path


def test_quantiles_are_those_of_the_manifest(tmp_path, write_lines, annotate):
    values = [*range(6), "6", *range(7, 20), None, "fast", True, 10**400]  # a CSV writes numbers as texts
    rows = [{"id": str(n), "audios": [{"path": "a.wav"}], "metadata": {"wpm": wpm}} for n, wpm in enumerate(values)]
    rows[3]["metadata"]["rate"] = "fast"  # the corpus knows better
    classes = tmp_path / "classes.yaml"
    classes.write_text(
        "rate: {of: wpm, labels: [slow, medium, fast], quantiles: [0.25, 0.75]}\n"
        "four: {of: wpm, labels: [below, above], thresholds: [4]}\n"
    )
    out = tmp_path / "out.jsonl"
    status, printed, _ = annotate("--manifest", write_lines("m.jsonl", rows), "--out", out, "--classes", classes)
    rates = [row["metadata"].get("rate") for row in read(out)]
    assert status == 0 and rates == ["slow"] * 3 + ["fast", "slow"] + ["medium"] * 10 + ["fast"] * 5 + [None] * 4
    assert [row["metadata"].get("four") for row in read(out)] == ["below"] * 4 + ["above"] * 16 + [None] * 4
    assert "rate: slow (4) < 4.75 <= medium (10) < 14.25 <= fast (6); 4 without" in printed


def test_a_class_can_be_asked_about(tmp_path, clips, annotate):
    manifest, out = clips({"a": voiced(110), "b": voiced(220)}), tmp_path / "annotated.jsonl"
    annotate("--manifest", manifest, "--out", out, "--annotators", *SIGNAL, "--classes", CLASSES)
    for row, pitch in zip(read(out), ("low", "high")):
        assert row["metadata"]["pitch"] == pitch and row["metadata"]["length"] == "short"
    classes, instructions = read_scales(CLASSES), Instructions.load(CONFIGS / "paper" / "instructions.yaml")
    shared = classes.keys() & instructions.attributes.keys()
    assert shared == {"pitch", "speaking_rate", "energy", "noise"}
    assert all(set(classes[key].labels) <= instructions.attributes[key].options.keys() for key in shared)
    named = [("Pitch", "low"), ("Pitch", "high")]
    assert [pitch for row, pitch in zip(read(out), named) if pitch in instructions.named(row)] == named


def test_the_seed_description_names_noise_and_reverberation():
    instructions = Instructions.load(CONFIGS / "paper" / "instructions.yaml")
    measured = {"snr_db": 12.5, "brouhaha_snr_db": 11.0, "c50_db": 31.0, "noise": "noisy"}
    assert sorted(instructions.named({"id": "a", "metadata": measured})) == [
        ("Clarity (C50) in dB", "31.0"),
        ("Noise", "noisy"),
        ("Signal-to-noise ratio in dB", "11.0"),
        ("Signal-to-noise ratio in dB", "12.5"),
    ]
    assert {*snr.KEYS, *brouhaha.KEYS} <= measured.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {of: b, labels: [x, y]}", "give either thresholds or quantiles"),
        ("a: {of: b, labels: [x, y], thresholds: [1], quantiles: [0.5]}", "give either thresholds or quantiles"),
        ("a: {of: b, labels: [x, y, z], thresholds: [1]}", "3 labels need 2 limits, not 1"),
        ("a: {of: b, labels: [x, y, z], thresholds: [2, 1]}", "the limits must rise"),
        ("a: {of: b, labels: [x, y], thresholds: [.nan]}", "a.thresholds.0"),
        ("a: {of: b, labels: [x, y], quantiles: [1.0]}", "a.quantiles.0"),
        ("a: {of: b, labels: [x], thresholds: []}", "a.labels"),
        (
            "a: {of: seconds, labels: [x, y], thresholds: [1]}\nb: {of: a, labels: [x, y], thresholds: [1]}",
            "itself a class",
        ),
        ("a: {of: pitch_hz, labels: [x, y], thresholds: [1]}", "'pitch_hz', which neither .* nor an annotator gives"),
    ],
)
def test_mistakes_in_the_classes_are_named_before_anything_is_measured(tmp_path, manifest, annotate, text, message):
    classes = tmp_path / "classes.yaml"
    classes.write_text(text)
    arguments = ("--manifest", manifest, "--out", tmp_path / "out.jsonl", "--annotators", "duration")
    status, printed, err = annotate(*arguments, "--classes", classes)
    assert status == 2 and printed == ""
    assert len(err.splitlines()) == 1 and str(classes) in err and re.search(message, err)
    assert not (tmp_path / "out.partial.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "{}/out.jsonl"), "nothing to do: give --annotators, --classes, or both"),
        (
            ("--out", "{}/out.jsonl", "--annotators", "pich"),
            "'pich': there is none of that name; take one of brouhaha, ",
        ),
        (("--out", "{}/out.jsonl", "--annotators", "snr", "snr"), "--annotators: snr is named twice"),
        (("--out", "{}/clips/../manifest.jsonl", "--annotators", "snr"), "that is what is read; name another"),
        (("--out", "{}/out.txt", "--annotators", "snr"), "name a file that ends in .jsonl"),
        (
            ("--out", "{}/out.jsonl", "--annotators", "snr", "--manifest", "{}/absent.jsonl"),
            "absent.jsonl: cannot be read",
        ),
    ],
)
def test_mistakes_of_the_user_are_reported_in_one_line(tmp_path, manifest, annotate, arguments, message):
    status, printed, err = annotate("--manifest", manifest, *(argument.format(tmp_path) for argument in arguments))
    assert status == 2 and printed == "" and len(err.splitlines()) == 1 and message in err


def test_measures_of_another_input_are_not_replaced(tmp_path, clips, annotate):
    arguments = ("--out", tmp_path / "out.jsonl", "--annotators", "duration")
    annotate("--manifest", clips({"a": voiced(110)}), *arguments)
    before = (tmp_path / "out.jsonl").read_bytes()
    manifest = clips({"b": voiced(110)})
    for changed, extra in (("manifest_sha256", ()), ("manifest_sha256, overwrite", ("--overwrite",))):
        status, _, err = annotate("--manifest", manifest, *arguments, *extra)
        assert status == 2 and f"it was made with another {changed}; choose another --out" in err
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_measures_of_another_version_are_not_mixed(tmp_path, manifest, annotate, monkeypatch):
    arguments = ("--manifest", manifest, "--out", tmp_path / "out.jsonl", "--annotators", "duration")
    annotate(*arguments)
    monkeypatch.setattr(annotators.get("duration"), "VERSION", 2, raising=False)
    status, _, err = annotate(*arguments)
    assert status == 2 and "it was made with another annotator_versions; choose another --out" in err


@pytest.mark.parametrize(("name", "extra"), [("emotion2vec", "emotion"), ("brouhaha", "brouhaha")])
def test_an_annotator_that_is_not_installed_names_its_extra(tmp_path, manifest, annotate, name, extra):
    try:
        annotators.measure_of(name)
    except ImportError:
        pass
    else:
        pytest.skip(f"{name} is installed")
    status, _, err = annotate("--manifest", manifest, "--out", tmp_path / "out.jsonl", "--annotators", "snr", name)
    assert status == 2 and len(err.splitlines()) == 1
    assert f"annotator {name} needs" in err and f"pip install -e '.[{extra}]'" in err
