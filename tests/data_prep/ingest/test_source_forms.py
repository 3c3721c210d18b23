"""A step that is given another form of data names the source that reads it; ingest takes its limit from a model."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from caad_ds import cli
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from tests.data_prep.lines import read
from tests.models.families.tiny import qwen2_audio

PLAIN = '{"audio": "a.wav", "text": "hello", "mood": "calm"}\n'
FORMS = {
    "own.jsonl": (PLAIN, "it is no record of a manifest (no 'audios'); `caad-ds prep ingest jsonl --root"),
    "nemo.json": ('{"audio_filepath": "a.wav"}\n', "`caad-ds prep ingest nemo --root"),
    "a.csv": ("audio,text\na.wav,hello\n", "it looks like CSV, not JSONL; `caad-ds prep ingest csv --root"),
    "b.csv": ("\ufeffaudio;text\r\na.wav;hello\r\n", "it looks like CSV, not JSONL; `caad-ds prep ingest csv --root"),
    "a.tsv": ("audio\ttext\na.wav\thello\n", "it looks like TSV, not JSONL; `caad-ds prep ingest csv --root"),
    "a.parquet": (None, "it is a Parquet file; `caad-ds prep ingest parquet --root"),
    "array.json": ("[\n" + PLAIN + "]\n", "it is one JSON array; write an object per line"),
    "folder": ("", "it is a folder with metadata files; `caad-ds prep ingest audiofolder --root"),
}
STEPS = {
    "describe": ("--instructions", "i.yaml", "--out", "out.jsonl"),
    "pseudo-gt": ("--engine", "template", "--out", "out.jsonl"),
    "annotate": ("--annotators", "duration", "--out", "out.jsonl"),
    "add-noise": ("--audio-dir", "noisy", "--out", "out.jsonl"),
    "split": ("--rules", "rules.yaml", "--out", "splits"),
    "conflict-benchmark": ("--instructions", "i.yaml", "--out", "benchmark"),
    "pack": ("--out", "shards"),
}


@pytest.fixture
def forms(tmp_path, tone, monkeypatch):
    """A folder with each form of data."""
    monkeypatch.chdir(tmp_path)
    tone("a.wav")
    attributes = {"mood": {"name": "Mood", "questions": ["Which?"], "options": {"calm": "It is.", "sad": "It is not."}}}
    (tmp_path / "i.yaml").write_text(yaml.safe_dump({"attributes": attributes}))
    (tmp_path / "rules.yaml").write_text("- {name: all, hash_of: mood}")
    for name, (text, _) in FORMS.items():
        if name == "folder":
            (tmp_path / name).mkdir()
            (tmp_path / name / "metadata.csv").write_text("file_name\na.wav\n")
        elif text is None:
            pq.write_table(pa.table({"audio": ["a.wav"]}), tmp_path / name)
        else:
            (tmp_path / name).write_text(text, "utf-8", newline="")
    return tmp_path


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_gets_what_is_no_manifest_names_the_source_that_reads_it(step, forms, capsys):
    for name, (_, message) in FORMS.items():
        assert cli.main(["prep", step, "--manifest", name, *STEPS[step]]) == 2, name
        error = capsys.readouterr().err
        assert message in error, (name, error)


def test_pseudo_gt_by_a_speech_model_names_the_step_before_it_loads_the_model(forms, capsys):
    (forms / "model").mkdir()
    SpeechLMConfig(llm_config={"model_type": "llama"}).save_pretrained(forms / "model")
    (forms / "model" / "model.safetensors").write_bytes(b"weights")
    arguments = ["--engine", "speech", "--model", "model", "--dtype", "float32", "--out", "out.jsonl"]
    assert cli.main(["prep", "pseudo-gt", "--manifest", "own.jsonl", *arguments]) == 2
    assert "`caad-ds prep ingest jsonl --root own.jsonl" in capsys.readouterr().err


def test_ingest_of_jsonl_names_the_source_for_another_form(forms, capsys):
    for name in ("a.csv", "b.csv", "a.tsv", "a.parquet", "array.json", "folder"):
        assert cli.main(["prep", "ingest", "jsonl", "--root", name, "--out", "out/out.jsonl"]) == 2
        assert FORMS[name][1] in capsys.readouterr().err


def test_one_line_that_is_no_json_is_no_other_form(forms, capsys):
    (forms / "own.jsonl").write_text("a, b, c\n" + PLAIN)
    assert cli.main(["prep", "ingest", "jsonl", "--root", "own.jsonl", "--out", "out.jsonl"]) == 0
    assert [row["id"] for row in read(forms / "out.rejected.jsonl")] == ["own.jsonl line 1"]


def config(file, **student):
    content = {"run": {"output_dir": "out"}, "data": {"train": "x"}, "optimizer": {"steps": 1},
               "objective": {"name": "ce"}, "student": student}  # fmt: skip
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def model(forms):
    """A model folder's config with a window of one second."""
    SpeechLMConfig(llm_config={"model_type": "llama"}, window_seconds=1).save_pretrained(forms / "model")
    return forms / "model"


@pytest.mark.parametrize(
    "kind", ["config", "started from a model", "model", "run", "whisper", "qwen2_audio", "architecture"]
)
def test_the_limit_is_the_window_of_a_config_or_a_model(kind, forms, model, capsys):
    (forms / "whisper").mkdir()
    (forms / "whisper" / "config.json").write_text(json.dumps({"model_type": "whisper", "max_source_positions": 50}))
    (forms / "qwen.json").write_text(
        json.dumps({"model_type": "qwen2_audio", "audio_config": {"max_source_positions": 50}})
    )
    if kind == "qwen2_audio":
        qwen2_audio.processor(seconds=1).save_pretrained(forms / "qwen")
        (forms / "qwen/config.json").write_text('{"model_type": "qwen2_audio"}')
    named = {
        "qwen2_audio": lambda: forms / "qwen",
        "architecture": lambda: config(forms / "my.yaml", path=str(forms / "qwen.json")),
        "config": lambda: config(forms / "my.yaml", llm="x/llm", encoder="x/whisper", window_seconds=1),
        "started from a model": lambda: config(forms / "my.yaml", path=str(model)),
        "model": lambda: model,
        "run": lambda: model.parent,
        "whisper": lambda: forms / "whisper",
    }[kind]()
    arguments = ["--root", "own.jsonl", "--out", "out.jsonl", "--too-long", "truncate", "--for", str(named)]
    assert cli.main(["prep", "ingest", "jsonl", *arguments]) == 0
    assert "its window of 1 s is the limit" in capsys.readouterr().out
    assert read(forms / "out.jsonl")[0]["audios"][0]["duration"] == 1.0


@pytest.mark.parametrize(
    ("named", "arguments", "message"),
    [
        ("absent", [], "--for absent: there is no such config or folder"),
        ("folder", [], "--for folder: no model there (config.json is missing)"),
        ("unfinished", [], "--for unfinished: no model there (config.json is missing); that run is not finished"),
        ("run.yaml", [], "run's folder, its model is run/model"),
        ("i.yaml", [], "i.yaml: run is missing"),
        ("hub.yaml", [], "the window of x/qwen is known where it is downloaded; give --max-seconds"),
        ("model", ["--max-seconds", "8"], "--for and --max-seconds both say"),
        ("wide.yaml", [], "a window of 30 s exceeds the encoder's 1 s; lower it"),
    ],
)
def test_what_says_no_window_is_refused(named, arguments, message, forms, model, capsys):
    (forms / "run/model").mkdir(parents=True)
    (forms / "run/model/config.json").write_text("{}")
    (forms / "unfinished/checkpoints").mkdir(parents=True)
    config(forms / "run.yaml", path="run")
    config(forms / "hub.yaml", path="x/qwen")
    (forms / "whisper.json").write_text(json.dumps({"model_type": "whisper", "max_source_positions": 50}))
    config(forms / "wide.yaml", llm="x/llm", encoder=str(forms / "whisper.json"))
    command = ["prep", "ingest", "jsonl", "--root", "own.jsonl", "--out", "out.jsonl", "--for", named, *arguments]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err


def test_of_a_pipe_no_line_is_lost(forms):
    os.mkfifo(forms / "pipe.jsonl")
    with ThreadPoolExecutor() as pool:
        pool.submit((forms / "pipe.jsonl").write_text, PLAIN)
        assert cli.main(["prep", "ingest", "jsonl", "--root", "pipe.jsonl", "--out", "out.jsonl"]) == 0
    assert len(read(forms / "out.jsonl")) == 1
