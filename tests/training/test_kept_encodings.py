"""Trainings with student.keep_encoded_gb: the encoder once a clip, resumed bit for bit, refused where it cannot be."""

import os
import signal
from pathlib import Path

import pytest
import torch

from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from tests.training.launching import Run, refusal, train, weights
from tests.training.tiny import CLIPS, config, start_from

STEPS = 9  # three epochs of the 24 clips
CALLS = "TEST_ENCODER_CALLS"  # a file to which a rank writes a character for each clip that it encodes


def counting() -> None:
    """Let this process count what its encoder does."""
    encode = SpeechEncoder.encode

    def counted(self, features):
        with open(os.environ[CALLS], "a") as calls:
            calls.write("." * len(features))
        return encode(self, features)

    SpeechEncoder.encode = counted


def changes(world: Path, gigabytes: float) -> dict:
    """Teacher and student share their encoder; the validation data are the training's."""
    return {
        "student": start_from(world / "teacher") | {"train": "all", "keep_encoded_gb": gigabytes},
        "data": {"validation": str(world / "shards")},
        "optimizer": {"steps": STEPS},
        "checkpoint": {"every": 4},
        "validation": {"every": 4},
        "tracking": {"enabled": False},
    }


def encoded(world: Path, out: Path, gigabytes: float) -> int:
    """Train in one process; how many clips it has encoded."""
    calls = out.with_suffix(".calls")
    run = Run(config(world, out, **changes(world, gigabytes)), env={CALLS: str(calls)}, prepare=counting)
    assert run.wait() == [0], run.output()
    return len(calls.read_text())


def test_each_clip_is_encoded_once_whatever_the_limit_computes_the_same(world, tmp_path):
    outs = tmp_path / "kept", tmp_path / "one", tmp_path / "off"
    assert encoded(world, outs[0], 1.0) == CLIPS + 1  # and the negative
    assert encoded(world, outs[1], 2e-5) > CLIPS * 3  # room for one
    assert encoded(world, outs[2], 0) > CLIPS * 3
    kept, one = (weights(out) for out in outs[:2])
    assert all(torch.equal(kept[name], one[name]) for name in kept)


@pytest.mark.slow
@pytest.mark.numeric
def test_a_run_that_resumes_with_nothing_kept_computes_the_same(world, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config(world, whole, **changes(world, 1.0)), 2)
    file = config(world, killed, **changes(world, 1.0))
    run = Run(file, 2)
    run.wait_for("step 6/")
    run.signal(signal.SIGKILL)
    assert run.wait() == [-signal.SIGKILL] * 2
    # Another limit is the same course; no limit is another one.
    assert "resumed from" in train(file, 2, "--set", "student.keep_encoded_gb=2.0")
    a, b = weights(whole), weights(killed)
    assert all(torch.equal(a[name], b[name]) for name in a)
    line = refusal(file, "--set", "student.keep_encoded_gb=0", ranks=2)
    assert "begun with another config (student.keep_encoded_gb True -> False)" in line


def test_an_encoder_that_trains_is_refused(world, tmp_path):
    student = {"train": "lora", "lora": {"rank": 2, "encoder": True}, "keep_encoded_gb": 1.0}
    assert "keep_encoded_gb: an encoder that trains" in refusal(config(world, tmp_path / "out", student=student))


def test_a_count_of_flops_is_refused_beside_it(world, tmp_path):
    run, student = {"peak_tflops": 0.1}, {"keep_encoded_gb": 1.0}
    line = refusal(config(world, tmp_path / "out", run=run, student=student))
    assert "run.peak_tflops is for MFU, which is not counted with student.keep_encoded_gb" in line
