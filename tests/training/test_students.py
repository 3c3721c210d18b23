"""Which weights train, and the other DeepSpeed stage."""

import pytest
import torch
from safetensors.torch import load_file

from caad_ds.config.deepspeed_settings import deepspeed_config
from caad_ds.config.reading import load_config
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import load, save
from caad_ds.training.engines import load_student
from tests.training.alike import (
    assert_same_bf16_values,
    assert_same_curves,
    assert_same_weights,
)
from tests.training.launching import curve, train, weights
from tests.training.tiny import STEPS, config, llama, start_from


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all runs go, with one MLflow store."""
    return tmp_path_factory.mktemp("students")


@pytest.fixture(scope="module")
def zero3(world, folder):
    """The output of the usual run on two ranks."""
    train(config(world, folder / "zero3"), 2)
    return folder / "zero3"


def test_only_the_connector_changes_with_and_without_checkpointing_alike(world, folder, terms):
    for checkpointing in (False, True):
        out = folder / f"connector-{checkpointing}"
        file = config(world, out, student={"train": "connector", "gradient_checkpointing": checkpointing})
        train(file, 2)
        before, after = load_student(load_config(file)).module.state_dict(), load(out / "model")[0].state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed and all(name.startswith("connector.") for name in changed)
        assert {name for name in before if name.startswith("connector.qformer")} & changed
    assert_same_curves(out, folder / "connector-False", terms)
    assert_same_weights(out, folder / "connector-False", terms, STEPS)


@pytest.mark.slow
def test_adapters_of_the_encoder_train_inside_the_engine(world, folder, terms):
    """On two ranks as in one process; the teacher's encoder stays as it was, the student's is saved merged."""
    student = {"train": "lora", "lora": {"rank": 2, "alpha": 8, "encoder": True}}
    for ranks in (1, 2):
        out = folder / f"ears-{ranks}"
        train(config(world, out, student=student), ranks)
    assert_same_curves(out, folder / "ears-1", terms)
    before, after = load(world / "teacher")[1].state_dict(), load(out / "model")[1].state_dict()
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "whisper.layers.0.self_attn.q_proj.weight" in changed and not any("norm" in name for name in changed)
    kept = load_file(out / "checkpoints/step-00000006/trainable.safetensors")
    assert any(name.startswith("encoder.whisper.layers.1.") and "lora_B" in name for name in kept)


@pytest.mark.parametrize(("asked", "hears"), [({"rank": 2, "encoder": True}, True), (None, False)])
def test_a_student_with_adapters_gets_fresh_ones_on_its_encoder_where_asked_for(world, folder, asked, hears):
    """As its folder keeps those of the LLM alone; the encoder's are merged in it."""
    lora = {"rank": 2, "encoder": True}
    made = load_student(load_config(config(world, folder / "unused", student={"train": "lora", "lora": lora})))
    weights = {name: parameter.detach() for name, parameter in made.named_parameters()}
    made.rebuilt(weights, torch.float32).save(folder / "adapted")
    own = start_from(folder / "adapted") | {"train": "lora", "lora": asked}
    student = load_student(load_config(config(world, folder / "unused", student=own)))
    training = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert any(name.startswith("llm.") and "lora_" in name for name in training)
    assert any(name.startswith("encoder.") and "lora_" in name for name in training) == hears


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_adapters_and_connector_train_under_gradient_checkpointing(world, folder, terms, stage):
    """On two ranks as in one process without it, and the finished model has the adapters in its weights."""
    settings = str(world / "student.json") if stage == 3 else "student_zero2.json"
    student = {"train": "lora", "lora": {"rank": 2, "alpha": 8}}
    ends = []
    for ranks, more in ((1, {}), (2, {"gradient_checkpointing": True, "deepspeed": settings})):
        out = folder / f"lora-{stage}-{ranks}"
        train(config(world, out, student=student | more), ranks)
        ends.append(weights(out))
    assert_same_curves(out, folder / f"lora-{stage}-1", terms)
    before = load_student(load_config(config(world, folder / "unused", student={"train": "connector"}))).module
    changed = {
        name for name, value in before.state_dict().items() if (value - ends[1].get(name, value)).abs().max() > 0
    }
    assert {"connector.project.weight", "llm.model.layers.0.self_attn.q_proj.weight"} <= changed
    assert not any("norm" in name or "embed" in name for name in changed if name.startswith("llm."))
    assert not any("lora" in name for name in ends[1])


@pytest.mark.numeric
def test_a_head_of_its_own_trains_on_two_ranks_as_in_one_process(world, folder, terms):
    """ZeRO-3 partitions the head's weight between the forward, which finds its gradient, and the backward."""
    vocabulary = load(world / "teacher")[0].config.llm_config.vocab_size
    for ranks in (1, 2):
        out = folder / f"head-{ranks}"
        untied = {"llm": llama(1, vocabulary, 16, tied=False)}
        file = config(world, out, student=untied, optimizer={"weight_decay": 0.0})  # decay moves weights by itself
        before = load_student(load_config(file)).module.state_dict()["llm.lm_head.weight"]
        train(file, ranks)
        assert (weights(out)["llm.lm_head.weight"] - before).abs().min() > 0  # every token's row has moved
    assert_same_curves(folder / "head-2", folder / "head-1", terms)
    assert_same_weights(folder / "head-2", folder / "head-1", terms, STEPS)


@pytest.mark.parametrize(
    "file",
    [
        "student_zero2.json",
        pytest.param("student_cpu.json", marks=pytest.mark.slow),
        pytest.param("student_zero3_cpu_optimizer.json", marks=pytest.mark.slow),
        pytest.param("student_24gb.json", marks=pytest.mark.slow),
    ],
)
def test_the_shipped_files_train_as_zero3_does(world, folder, terms, zero3, file):
    out = folder / file.removesuffix(".json")
    train(config(world, out, student={"deepspeed": file}), 2)
    assert_same_curves(out, zero3, terms)


def test_a_trained_student_is_a_start_and_a_teacher(world, folder, zero3):
    first = zero3 / "model"
    student = start_from(first)
    out = folder / "second"
    train(config(world, out, student=student, teacher={"path": str(first)}, optimizer={"steps": 2, "lr": 1e-9}))
    # Its own teacher, before any step has moved it: nothing but the contrast is left to learn.
    assert curve(out, "train/agreement")[0][1] > 0.9


@pytest.mark.slow
def test_a_published_connectors_form_trains_under_zero3_as_in_one_process(world, folder, terms):
    whole, speech_encoder, tokenizer = load(world / "teacher")
    speech_encoder.final_norm = False
    shape = {"num_queries": 4, "qformer_layers": 1, "qformer_heads": 2, "connector": "desta"}
    torch.manual_seed(0)
    model = build(whole.config.llm_config.to_dict(), speech_encoder, None, **shape)
    model.llm.load_state_dict(whole.llm.state_dict())
    save(folder / "desta", model, speech_encoder, tokenizer)
    for ranks in (1, 2):
        out = folder / f"desta-{ranks}"
        student = start_from(folder / "desta") | {"train": "connector"}
        train(config(world, out, student=student, teacher={"path": str(folder / "desta")}), ranks)
        assert load(out / "model")[0].config.connector == "desta"
    losses = [value for _, value in curve(out, "train/ce")]
    assert losses[-1] < losses[0]
    assert_same_curves(out, folder / "desta-1", terms)


@pytest.mark.parametrize(
    "file",
    [
        "student_zero2.json",
        *(pytest.param(file, marks=pytest.mark.slow) for file in ("student_zero3.json", "student_cpu.json")),
    ],
)
def test_bf16_trains_and_accumulates_in_fp32(world, folder, file):
    """Gradients of many micro-steps, summed with the 8 bits of bf16, would lose the small ones."""
    ends, norms = [], []
    for micro in (8, 1):
        out = folder / f"bf16-{micro}-{file}"
        student = {"deepspeed": file}
        train(config(world, out, run={"precision": "bf16"}, student=student, optimizer={"micro_batch": micro}))
        losses = [value for _, value in curve(out, "train/ce")]
        assert losses[-1] < losses[0]
        assert {value.dtype for value in weights(out).values()} == {torch.bfloat16}
        ends.append(losses)
        norms.append(curve(out, "train/grad_norm")[0][1])
    assert_same_bf16_values(ends[1], ends[0])
    assert_same_bf16_values(norms[1:], norms[:1])  # of the first step, whose weights are the same
    assert deepspeed_config(file)["data_types"] == {"grad_accum_dtype": "fp32"}
