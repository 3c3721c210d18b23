"""CONTRIBUTING.md as written: its files are created and its commands run, on a few tones."""

import os
import re
import shlex
import sys
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from caad_ds.cli import main
from tests.data_prep.lines import read
from tests.root import ROOT
from tests.training.tiny import config, make_world, records

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"^```\w+\n# (my_lab/\S+)\n(.*?)^```", TEXT, re.M | re.S))
COMMANDS = re.findall(r"^ +caad-ds (.*)", TEXT, re.M)
CLIPS = 4


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The folder where all commands were run; their output is in the file `said`."""
    folder, before = tmp_path_factory.mktemp("contributing"), (dict(os.environ), list(sys.path))
    (folder / "world").mkdir()
    make_world(folder / "world")
    (folder / "recordings").mkdir()
    for record in records(folder / "recordings", CLIPS):
        clip = folder / "recordings" / record["audios"][0]["path"]
        clip.rename(clip.with_name(f"{record['metadata']['tone']}_{clip.name}"))
    (folder / "recordings/loud_9.wav").write_bytes(b"")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    run = {"data": {"train": "shards"}, "optimizer": {"steps": 1, "batch_size": CLIPS}, "tracking": {"enabled": False}}
    config(folder / "world", folder / "my", **run)
    sys.path.insert(0, str(folder))  # as PYTHONPATH has it
    with chdir(folder), redirect_stdout(StringIO()) as said:
        for command in COMMANDS:
            assert main(shlex.split(command)) == 0, command
    (folder / "said").write_text(said.getvalue())
    os.environ.clear()
    os.environ.update(before[0])
    sys.path[:] = before[1]
    return folder


def test_the_corpus(done):
    rows = read(done / "manifest.jsonl")
    assert {row["id"]: row["metadata"]["tone"] for row in rows} == {
        "high_1": "high", "high_3": "high", "low_0": "low", "low_2": "low",
    }  # fmt: skip
    [rejected] = read(done / "manifest.rejected.jsonl")
    assert rejected["id"] == "loud_9" and "neither high nor low" in rejected["reason"]


def test_the_annotator(done):
    assert all(-11 < row["metadata"]["peak_dbfs"] < -9 for row in read(done / "annotated.jsonl"))  # of 0.3, and noise


def test_the_engine(done):
    assert {row["id"].split("_")[0]: row["response"] for row in read(done / "answered.jsonl")} == {
        "high": "The tone is high.", "low": "The tone is low.",
    }  # fmt: skip


def test_the_loss(done):
    said = (done / "said").read_text()
    assert re.search(r"^loss: chunked \(native .*\)$", said, re.M) and "step 1/1  kd " in said
    assert "divergence: my_lab.losses:jeffreys" in (done / "my/config.yaml").read_text()
    assert (done / "my/model/config.json").exists()
