"""An untied head, small enough not to be partitioned by ZeRO-3: a resumed run continues after a validation pass."""

import json
import signal

import pytest

from tests.training.families.qwen import foreign
from tests.training.launching import Run, train
from tests.training.tiny import config, llama

CHANGES = {"student": {"deepspeed": "student_zero3.json"}, "optimizer": {"steps": 9, "micro_batch": 4}}
EVERY = {"validation": {"every": 4, "batch_size": 4}, "checkpoint": {"every": 3}}


def qwen2_audio(world, out):
    return foreign(world, out, "all", **CHANGES, **EVERY, data={"validation": str(world / "shards")})


def speech_lm(world, out):
    vocabulary = json.loads((world / "teacher/config.json").read_text())["llm_config"]["vocab_size"]
    student = CHANGES["student"] | {"llm": llama(1, vocabulary, 16, tied=False)}
    changes = {"student": student, "optimizer": CHANGES["optimizer"], **EVERY}
    return config(world, out, **changes, data={"validation": str(world / "shards")})


@pytest.mark.parametrize("made", [pytest.param(qwen2_audio, marks=pytest.mark.slow), speech_lm])
def test_a_resumed_run_goes_on_after_a_validation(audio_world, tmp_path, made):
    file = made(audio_world, tmp_path / "out")
    run = Run(file)
    run.wait_for("step 2/")
    run.signal(signal.SIGUSR1)
    assert run.wait() == [75], run.output()
    output = train(file)
    assert output.count("validation: ") >= 2 and "finished: " in output
