"""Audios of one to three windows, on two ranks with both engines, as plain PyTorch."""

import json

import numpy as np
import pytest
import soundfile

from caad_ds.config.reading import load_config
from data_prep.pack import pack
from tests.command import run_command
from tests.models.families.tiny import musicflamingo
from tests.training.families.plain import losses
from tests.training.families.traces import watch_traces
from tests.training.launching import Run, curve
from tests.training.tiny import config, records, start_from

SAMPLES = (6400, 32_001, 64_000, 96_000, 52_800, 32_000)  # at 16 kHz, in windows of 2 s; one of them has no position


@pytest.mark.slow
@pytest.mark.numeric
def test_losses_are_those_of_plain_pytorch(world, tmp_path):
    rows, rng = records(tmp_path), np.random.default_rng(0)
    for number, row in enumerate(rows):
        samples = SAMPLES[number % len(SAMPLES)]
        soundfile.write(tmp_path / f"{number}.wav", 0.3 * rng.standard_normal(samples).clip(-3, 3), 16_000)
        row["audios"][0]["duration"] = samples / 16_000
    manifest = tmp_path / "long.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_command(pack, "--manifest", manifest, "--out", tmp_path / "shards") == 0
    musicflamingo.write(tmp_path / "teacher")
    student = start_from(musicflamingo.write(tmp_path / "narrow", hidden=16, seed=1)) | {"train": "connector"}
    file = config(
        world, tmp_path / "out", student=student, data={"train": str(tmp_path / "shards")},
        teacher={"path": str(tmp_path / "teacher")}, optimizer={"micro_batch": 2, "lr": 5e-3},
    )  # fmt: skip
    run = Run(file, 2, prepare=watch_traces)
    assert run.wait() == [0, 0], run.output()
    found = [value for _, value in curve(tmp_path / "out", "train/loss")]
    np.testing.assert_allclose(found, list(losses(load_config(file))), atol=1e-5, rtol=0)
