"""Students of the family that no folder holds: the first layers of one that is there, or an architecture."""

import json
import signal

import pytest
from transformers import Qwen2AudioForConditionalGeneration

from caad_ds import cli
from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio
from tests.training.families.qwen import foreign
from tests.training.families.test_equal_to_plain import assert_plain_losses
from tests.training.families.test_export import files
from tests.training.launching import Run, train


def cut(world, root):
    """The first layer of the teacher."""
    return {"path": str(world / "qwen2_audio"), "keep_layers": 1}


def architecture(world, root):
    """Random weights, with the teacher's processor."""
    file = root / "small.json"
    file.write_text(json.dumps(tiny_qwen2_audio.architecture(tiny_qwen2_audio.processor(), hidden=16, layers=1)))
    return {"path": str(file), "tokenizer": str(world / "qwen2_audio")}


@pytest.mark.slow
@pytest.mark.parametrize("student", [cut, architecture])
def test_a_stopped_run_goes_on_and_leaves_a_model_of_the_family(audio_world, tmp_path, student):
    """SIGUSR1 ends it after a checkpoint; the export is the run's own folder."""
    out = tmp_path / "out"
    changes = {"student": student(audio_world, tmp_path), "optimizer": {"steps": 12}}
    file = foreign(audio_world, out, "all", **changes)
    run = Run(file, 2)
    run.wait_for("step 3/")
    run.signal(signal.SIGUSR1)
    assert run.wait() == [75, 75], run.output()
    assert "resumed from" in train(file, 2)
    assert_plain_losses(file, out)
    assert cli.main(["export", str(out), "--out", str(tmp_path / "model")]) == 0
    assert files(tmp_path / "model") == files(out / "model")
    model, info = Qwen2AudioForConditionalGeneration.from_pretrained(out / "model", output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.text_config.num_hidden_layers == len(model.model.language_model.layers) == 1


@pytest.mark.slow
def test_in_bf16_features_are_cast_and_the_loss_falls(audio_world, tmp_path):
    out = tmp_path / "out"
    file = foreign(audio_world, out, "lora", run={"precision": "bf16"}, optimizer={"lr": 2e-2})
    output = train(file, 2)
    lines = [line for line in output.splitlines() if line.startswith("step ")]
    first, last = (float(lines[n].split("kd ")[1].split()[0]) for n in (0, -1))
    assert last < first - 0.1, output
    weights = Qwen2AudioForConditionalGeneration.from_pretrained(out / "model", dtype="auto").parameters()
    assert {str(weight.dtype) for weight in weights} == {"torch.bfloat16"}
