"""A run's identity: the settings that differ from their defaults, and everything else that affects training."""

import datetime
import json
from pathlib import Path

import pytest
from pydantic import create_model

from caad_ds.config.key_names import section_of
from caad_ds.config.schema import (
    Config,
    LoraSection,
    ObjectiveSection,
    OptimizerSection,
    StudentSection,
    TeacherSection,
)
from caad_ds.training.run_identity import COURSE, IDENTITY_VERSION, NOT_COURSE, Identity, identity
from caad_ds.utils.errors import UserError

DISTILL = {
    "run": {"output_dir": "out"},
    "data": {"train": "shards"},
    "teacher": {"path": "teacher"},
    "student": {"path": "student"},
    "optimizer": {"steps": 3},
}
STREAM = {
    "run": {"output_dir": "out", "seed": 3, "precision": "bf16"},
    "data": {"train": "pipe:cat a.tar", "reader": "stream", "shuffle_buffer": 7, "skip_broken": True},
    "student": {
        "llm": {"model_type": "llama", "vocab_size": 60}, "encoder": "ears", "train": "lora", "lora": {"rank": 4},
        "template": {"switches": {"enable_thinking": False}}, "gradient_checkpointing": True,
    },
    "objective": {"name": "ce"},
    "optimizer": {"steps": 3, "micro_batch": 2, "betas": [0.9, 0.95]},
}  # fmt: skip
# The version of the settings' defaults, and the default of each key that decides the course of training.
VERSION = 1
DEFAULTS = {
    "run.seed": 0, "run.precision": "fp32", "run.encoder_precision": "fp32", "run.attention": "sdpa",
    "data.reader": "indexed", "data.shuffle_buffer": 1000, "data.skip_broken": False, "data.group_by_audio": False,
    "data.max_answer_tokens": 300,
    "student.path": None, "student.llm": None, "student.keep_layers": None, "student.encoder": None,
    "student.taps": [0, 1, 2, 3], "student.window_seconds": 30, "student.num_queries": 64, "student.qformer_layers": 2,
    "student.qformer_heads": 8, "student.normalize_states": False, "student.connector": "blip2",
    "student.tokenizer": None, "student.transcript": None, "student.template.date": datetime.date(2024, 7, 26),
    "student.template.merge_system": False, "student.template.switches": {}, "student.train": "connector",
    "student.lora": None, "student.lora.rank": 16, "student.lora.alpha": 32.0, "student.lora.dropout": 0.0,
    "student.lora.targets": "all-linear", "student.lora.encoder": False, "student.deepspeed": "student_zero3.json",
    "student.keep_encoded_gb": 0.0,
    "optimizer.lr": 1e-4, "optimizer.betas": (0.9, 0.98), "optimizer.weight_decay": 0.01,
    "optimizer.warmup_steps": 2000, "optimizer.steps": None, "optimizer.epochs": None, "optimizer.batch_size": 8,
    "optimizer.batch_tokens": None, "optimizer.micro_tokens": None, "optimizer.bucket_window": 32,
    "optimizer.max_grad_norm": 1.0,
    "teacher": None, "teacher.transcript": None, "teacher.negative": "zero_mel",
    "objective.name": "distill", "objective.alpha": 1.0, "objective.temperature": 2.0, "objective.kd_weight": 0.7,
    "objective.alpha_gate": "none", "objective.gate_m": 2.0,
    "objective.plausibility": None, "objective.divergence": "forward_kl", "objective.mix": 0.5,
    "objective.sharpen": 0.0, "objective.reduction": "token", "objective.logits": "float32",
    "objective.audio_dropout": 0.0, "objective.dropout_negative": "zero_mel",
    "objective.row_weight": "none", "objective.row_weight_cap": 5.0, "objective.hidden_weight": 0.0,
    "objective.hidden_distance": "mse",
    "objective.on_policy": None, "objective.on_policy.share": 0.5, "objective.on_policy.divergence": "reverse_kl",
    "objective.on_policy.temperature": 1.0, "objective.on_policy.top_p": 1.0, "objective.on_policy.top_k": None,
    "objective.on_policy.max_new_tokens": 80,
}  # fmt: skip


def known(values: dict, schema: type[Config] = Config, **sections: dict) -> Identity:
    """The identity of a configuration, with changed keys, on weights and data that stay the same."""
    merged = values | {name: values.get(name, {}) | keys for name, keys in sections.items()}
    return identity(schema.model_validate(merged), ["t"], ("f", "s"), "d", {"p": 1})


def defaults(section: type = Config, prefix: str = "") -> dict:
    """The default of each key below a section that decides the course of training."""
    found = {}
    for name, field in section.model_fields.items():
        top, _, rest = f"{prefix}{name}".partition(".")
        chosen = COURSE.get(top)
        if not chosen or (rest and chosen is not True and rest not in chosen) or rest in NOT_COURSE.get(top, ()):
            continue
        below = section_of(field.annotation)
        if not field.is_required() and (below is None or field.default != below.model_construct()):
            found[prefix + name] = field.default
        found |= defaults(below, f"{prefix}{name}.") if below else {}
    return found


def test_a_changed_default_takes_a_new_version():
    now = defaults()
    changed = [f"{key} {old} -> {now.get(key)}" for key, old in DEFAULTS.items() if key not in now or now[key] != old]
    assert not changed, (
        f"other defaults: {', '.join(changed)}. Add 1 to IDENTITY_VERSION in caad_ds/training/run_identity.py, since "
        "checkpoints leave out what is at its default; then store the new defaults and VERSION here"
    )
    assert IDENTITY_VERSION == VERSION, "a new version: bring VERSION and DEFAULTS here up to date"
    assert not now.keys() - DEFAULTS.keys(), "new keys: store their defaults here; the version stays as it is"


@pytest.mark.parametrize(("values", "settings"), [(DISTILL, "fa56260348e61cdc"), (STREAM, "965a879bcda64ac3")])
def test_checkpoints_without_a_version_are_recognised(values, settings):
    """The hash of the settings is the one that the last version without one wrote for them.

    A default that changes is written out in the settings here: it was part of the hash.
    """
    now = known(values)
    stored = now.unversioned
    assert stored["settings"] == settings
    now.check(stored, Path("step-4"))
    for part in stored:
        with pytest.raises(
            UserError, match=rf"^step-4: .* differ from this .* \({part}, hash 0 -> {stored[part]}\); restore them"
        ):
            now.check(stored | {part: "0"}, Path("step-4"))


def later(section: str) -> type[Config]:
    """A later schema, in which a section has a key more that decides the course of training."""
    base = {"optimizer": OptimizerSection, "teacher": TeacherSection, "objective": ObjectiveSection}
    made = create_model("Made", __base__=base.get(section, LoraSection), added=(float, 0.5))
    if section == "student.lora":
        section, made = "student", create_model("Student", __base__=StudentSection, lora=(made | None, None))
    default = {"teacher": None, "objective": made.model_construct()}.get(section, ...)
    return create_model("Later", __base__=Config, **{section: (made | None, default)})


@pytest.mark.parametrize("section", ["optimizer", "teacher", "objective", "student.lora"])
def test_a_new_key_is_part_of_the_identity_only_where_it_is_not_at_its_default(section):
    values = STREAM if section == "student.lora" else DISTILL
    before = known(values)
    assert known(values, later(section)) == before
    name, _, lora = section.partition(".")
    added = {"lora": {"rank": 4, "added": 0.6}} if lora else {"added": 0.6}
    now = known(values, later(section), **{name: added})
    with pytest.raises(UserError, match=r"\(settings, hash "):
        now.check(before.parts, Path("step-4"))


def test_a_default_that_is_written_out_is_the_same_run():
    out = {
        "objective": {"alpha": 1.0, "name": "distill"},
        "optimizer": {"betas": [0.9, 0.98]},
        "data": {"reader": "indexed"},
    }
    assert known(DISTILL, **out) == known(DISTILL)


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"seed": 1}},
        {"run": {"attention": "eager"}},
        {"data": {"train": "others"}},
        {"data": {"skip_broken": True}},
        {"teacher": {"negative": "noise"}},
        {"student": {"keep_layers": 1}},
        {"student": {"train": "lora", "lora": {}}},
        {"objective": {"alpha": 0.5}},
        {"optimizer": {"lr": 1e-3}},
    ],
    ids=str,
)
def test_a_setting_that_decides_the_course_of_training(change):
    now = known(DISTILL, **change)
    for before in (known(DISTILL).parts, known(DISTILL).unversioned):
        with pytest.raises(UserError, match=r"\(settings, hash "):
            now.check(before, Path("step-4"))


@pytest.mark.parametrize("section", ["teacher", "student"])
def test_whether_prompts_have_the_transcript_decides_the_course(section):
    """A checkpoint without a version lacks it; the comparison with the run's config.yaml shows that."""
    now = known(DISTILL, **{section: {"transcript": "none"}})
    with pytest.raises(UserError, match=r"\(settings, hash "):
        now.check(known(DISTILL).parts, Path("step-4"))
    now.check(known(DISTILL).unversioned, Path("step-4"))


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"name": "b", "output_dir": "b", "log_every": 3}},
        {"optimizer": {"micro_batch": 2, "max_skipped": 3}},
        {"teacher": {"placement": "cpu", "batch": 2}},
        {"student": {"gradient_checkpointing": True}},
        {"data": {"validation": "held_out"}},
        {"checkpoint": {"every": 7}},
        {"tracking": {"enabled": False}},
    ],
    ids=str,
)
def test_a_setting_that_does_not(change):
    assert known(DISTILL, **change) == known(DISTILL)


def test_another_version_of_the_defaults_is_refused_in_one_line():
    now = known(DISTILL)
    with pytest.raises(UserError) as caught:
        now.check({**now.parts, "version": "0", "settings": "0"}, Path("step-4"))
    assert str(caught.value) == (
        f"step-4: defaults of settings that it does not name have changed since it was written "
        f"(version 0 -> {IDENTITY_VERSION}); resume "
        "it with the version of caad-ds that wrote it, or use another run.output_dir to start over"
    )


def test_a_checkpoint_of_an_early_commit_is_refused_by_what_it_lacks():
    """Prompts were made of other token ids then, and not part of the identity; the file is one that 9ef2a8c wrote."""
    state = json.loads(Path(__file__).with_name("state_of_9ef2a8c.json").read_text())["state"]
    with pytest.raises(UserError) as caught:
        known(DISTILL).check(state["identity"], Path("step-4"))
    assert str(caught.value) == (
        "step-4: it holds no hash of prompts: a version of caad-ds wrote it that made other token ids of a record; "
        "resume it with the version of caad-ds that wrote it, or use another run.output_dir to start over"
    )
