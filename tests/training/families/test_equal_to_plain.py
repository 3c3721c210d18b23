"""Two ranks with both engines take the steps of plain PyTorch, whatever trains and wherever the teacher lies."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2AudioForConditionalGeneration

from caad_ds.config.reading import load_config
from caad_ds.distill.student_objective import StudentObjective
from caad_ds.training.engines import load_student
from tests.training.families.conftest import RATE
from tests.training.families.plain import Drawn, losses
from tests.training.families.qwen import STEPS, foreign
from tests.training.families.traces import watch_traces
from tests.training.launching import Run, curve, train, weights
from tests.training.nvme import COMPILED, needs_nvme

LIMIT = 1e-5
KILLED = {"checkpoint": {"every": 3}}


def assert_plain_losses(file, out, vocabulary: torch.Tensor | None = None, drawn: Drawn | None = None) -> list[float]:
    """Fail unless a run's losses are those of plain PyTorch, over these ids and drawn answers; return them."""
    found = [value for _, value in curve(out, "train/loss")]
    expected = list(losses(load_config(file), vocabulary, drawn))
    assert len(found) == len(expected)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= LIMIT, (found, expected)
    return found


def assert_two_ranks_are_plain(file, out) -> None:
    """Train on two ranks, watched; fail unless the losses are those of plain PyTorch."""
    run = Run(file, 2, prepare=watch_traces)
    assert run.wait() == [0, 0], run.output()
    assert_plain_losses(file, out)


@pytest.fixture(scope="module")
def undisturbed(audio_world, tmp_path_factory):
    """The output of 20 steps of the connector, the teacher in host memory; the student's config names dropout."""
    out = tmp_path_factory.mktemp("plain") / "out"
    run = Run(foreign(audio_world, out, name="dropping", **KILLED), 2, prepare=watch_traces)
    assert run.wait() == [0, 0], run.output()
    assert "teacher: cpu (" in run.output()
    return out


@pytest.mark.numeric
def test_losses_are_those_of_plain_pytorch_without_dropout(undisturbed, audio_world, tmp_path):
    """The rates in the config change nothing in training, and are saved as they were."""
    plain = foreign(audio_world, tmp_path / "out")
    found = assert_plain_losses(plain, undisturbed)
    assert sum(found[-3:]) < sum(found[:3]) - 0.02, found
    saved = json.loads((undisturbed / "model/config.json").read_text())
    assert saved["text_config"]["attention_dropout"] == saved["audio_config"]["dropout"] == RATE


def test_the_connector_alone_has_changed(undisturbed, audio_world):
    before = Qwen2AudioForConditionalGeneration.from_pretrained(audio_world / "narrow").state_dict()
    after, info = Qwen2AudioForConditionalGeneration.from_pretrained(undisturbed / "model", output_loading_info=True)
    assert not any(info.values()), info
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"model.multi_modal_projector.linear.{part}" for part in ("weight", "bias")}


@pytest.mark.numeric
def test_a_killed_run_ends_as_one_that_was_not(undisturbed, audio_world):
    out = undisturbed.with_name("killed")
    file = foreign(audio_world, out, name="dropping", **KILLED)
    run = Run(file, 2)
    run.wait_for("step 8/")
    run.signal(signal.SIGKILL)
    assert run.wait() == [-signal.SIGKILL] * 2
    assert "at step 6" in train(file, 2)
    a, b = weights(undisturbed), weights(out)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert curve(undisturbed, "train/loss") == curve(out, "train/loss")


@pytest.mark.slow
def test_a_killed_run_resumes_with_its_map_of_hidden_states(audio_world, tmp_path):
    outs = [tmp_path / name for name in ("undisturbed", "killed")]
    changes = {"objective": {"hidden_weight": 0.3}, "optimizer": {"steps": 8}}
    files = [foreign(audio_world, out, "all", **KILLED, **changes) for out in outs]
    train(files[0], 2)
    run = Run(files[1], 2)
    run.wait_for("step 5/")
    run.signal(signal.SIGKILL)
    assert run.wait() == [-signal.SIGKILL] * 2
    assert "at step 3" in train(files[1], 2)
    a, b = map(weights, outs)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "student"),
    [
        ("lora", {"gradient_checkpointing": True}),
        ("lora", {"lora": {"rank": 4, "alpha": 8, "encoder": True}}),
        ("all", {}),
        ("all", {"deepspeed": "student_zero2.json"}),
    ],
    ids=["lora, checkpointing", "lora, tower too", "all", "all, ZeRO-2"],
)
def test_every_mode_takes_the_steps_of_plain_pytorch(audio_world, tmp_path, mode, student):
    out = tmp_path / "out"
    file = foreign(audio_world, out, mode, student=student)
    train(file, 2)
    found = assert_plain_losses(file, out)
    assert len(found) == STEPS and sum(found[-3:]) < sum(found[:3]) - 0.1, found
    before = Qwen2AudioForConditionalGeneration.from_pretrained(audio_world / "narrow").state_dict()
    after = Qwen2AudioForConditionalGeneration.from_pretrained(out / "model").state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    hears = any("audio_tower" in name for name in changed)
    assert hears == bool(student.get("lora", {}).get("encoder"))
    assert "model.language_model.layers.1.mlp.up_proj.weight" in changed
    assert ("lm_head.weight" in changed) == (mode == "all")


@pytest.mark.parametrize("mode", ["connector", "lora", "all"])
def test_the_tower_stays_in_evaluation(audio_world, tmp_path, mode):
    """And the decoder alone recomputes its activations."""
    cfg = load_config(foreign(audio_world, tmp_path / "out", mode, student={"gradient_checkpointing": True}))
    student = load_student(cfg)
    StudentObjective(student, cfg.objective).train()
    assert student.decoder.training and student.connector.training
    assert not any(part.training for part in student.tower.modules())
    assert not any(weight.requires_grad for weight in student.tower.parameters())
    checkpointed = {name for name, part in student.module.named_modules() if getattr(part, "gradient_checkpointing", 0)}
    assert {"model.language_model.layers.0", "model.language_model.layers.1"} <= checkpointed
    assert not any("audio_tower" in name for name in checkpointed)


def test_dropout_of_a_towers_adapters_is_their_own(audio_world, tmp_path):
    """It is asked for by name, and is off where nothing trains."""
    lora = {"rank": 4, "dropout": 0.1, "encoder": True}
    cfg = load_config(foreign(audio_world, tmp_path / "out", "lora", student={"lora": lora}))
    student = load_student(cfg)
    objective = StudentObjective(student, cfg.objective).train()
    drops = [part for part in student.module.modules() if isinstance(part, torch.nn.Dropout)]
    assert drops and all(part.training and part.p == 0.1 for part in drops)
    assert not student.tower.training and not any(part.training for part in objective.eval().modules())


@pytest.mark.parametrize(
    "placed", ["resident", "replicated", pytest.param("nvme", marks=[needs_nvme, pytest.mark.slow])]
)
def test_wherever_the_teacher_lies(audio_world, tmp_path, placed):
    nvme = {"deepspeed": str(audio_world / "nvme.json"), "nvme_path": str(tmp_path / "swap")}
    where = nvme if placed == "nvme" else {"deepspeed": None, "placement": placed}
    out = tmp_path / "out"
    file = foreign(audio_world, out, teacher=where, optimizer={"steps": 3})
    run = Run(file, 2, prepare=watch_traces)
    assert run.wait(COMPILED if placed == "nvme" else 120) == [0, 0], run.output()
    assert f"teacher: {placed} (" in run.output()
    assert_plain_losses(file, out)


@pytest.mark.slow
@pytest.mark.parametrize("negative", ["text_only", "silence", "noise", "shuffled"])
def test_whatever_the_second_path_hears(audio_world, tmp_path, negative):
    out = tmp_path / "out"
    file = foreign(audio_world, out, teacher={"negative": negative}, optimizer={"steps": 3})
    assert_two_ranks_are_plain(file, out)


@pytest.mark.numeric
def test_with_an_alpha_of_each_row(audio_world, tmp_path):
    """The text-certainty gate, in a range where the rows of this teacher differ."""
    out = tmp_path / "out"
    gate = {"alpha": 2.0, "alpha_gate": "text_certainty", "gate_m": 1000.0}
    file = foreign(audio_world, out, objective=gate, optimizer={"steps": 3})
    assert_two_ranks_are_plain(file, out)
    alphas = [value for _, value in curve(out, "train/alpha")]
    assert len(set(alphas)) == 3 and all(0.1 < alpha < 1.9 for alpha in alphas), alphas


@pytest.mark.numeric
@pytest.mark.parametrize("alpha", [2.0, pytest.param(0.0, marks=pytest.mark.slow)], ids=["CAAD", "standard KD"])
def test_with_a_weight_of_each_row(audio_world, tmp_path, alpha):
    """The audio advantage, of micro-batches that weigh their rows together; some reach the cap."""
    out = tmp_path / "out"
    weighed = {"alpha": alpha, "row_weight": "audio_advantage", "row_weight_cap": 0.3}
    validated = {"data": {"validation": str(audio_world / "shards")}, "validation": {"every": 3}}
    file = foreign(audio_world, out, objective=weighed, optimizer={"steps": 3}, **validated)
    assert_two_ranks_are_plain(file, out)
    advantages = [value for _, value in curve(out, "train/advantage")]
    assert len(set(advantages)) == 3 and all(0.01 < advantage < 0.3 for advantage in advantages), advantages


@pytest.mark.numeric
@pytest.mark.parametrize("student", ["narrow", pytest.param("qwen2_audio", marks=pytest.mark.slow)])
def test_with_a_contrast_of_hidden_states(audio_world, tmp_path, student):
    """Of a narrower student through a learned map, which is in no folder that the run leaves."""
    out = tmp_path / "out"
    objective = {"hidden_weight": 0.3, "row_weight": "audio_advantage"}
    file = foreign(audio_world, out, name=student, objective=objective, optimizer={"steps": 4})
    assert_two_ranks_are_plain(file, out)
    assert all(value > 0 for _, value in curve(out, "train/hidden_distance"))
    for folder in (out / "model", out / "checkpoints/step-00000004"):
        files = [load_file(path) for path in folder.glob("*.safetensors")]
        assert files and not any("width_map" in name for file in files for name in file)
