"""The typed YAML: accepted values, refused values and their messages."""

from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from caad_ds.config.key_names import SYNONYMS
from caad_ds.config.objective_section import ALPHA_GATES
from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.loss import alpha_gate
from tests.config.refusals import refusal

LEAST = {
    "run": {"output_dir": "out"},
    "data": {"train": "shards"},
    "teacher": {"path": "teacher"},
    "student": {"path": "student"},
    "optimizer": {"steps": 3},
}


@pytest.fixture
def write(tmp_path):
    """Write a YAML of the least configuration with changed sections, or of a text."""

    def to_file(text: str | None = None, **changes):
        values = {k: LEAST.get(k, {}) | v if isinstance(v, dict) else v for k, v in (LEAST | changes).items()}
        path = tmp_path / "run.yaml"
        path.write_text(text if text is not None else yaml.safe_dump({k: v for k, v in values.items() if v != {}}))
        return path

    return to_file


def test_defaults_are_the_papers(write):
    cfg = load_config(write())
    assert (cfg.objective.kd_weight, cfg.objective.temperature, cfg.objective.reduction) == (0.7, 2.0, "token")
    assert (cfg.optimizer.lr, cfg.optimizer.betas, cfg.optimizer.warmup_steps) == (1e-4, (0.9, 0.98), 2000)
    assert cfg.student.train == "connector" and cfg.teacher.negative == "zero_mel"


def test_overrides_are_yaml_values(write):
    overrides = ["objective.alpha=2", "run.name=a b", "optimizer.betas=[0, 0.3]", "teacher.negative=text_only"]
    cfg = load_config(write(), [*overrides, "validation.every=7"])
    assert (cfg.objective.alpha, cfg.run.name, cfg.optimizer.betas, cfg.validation.every) == (2.0, "a b", (0, 0.3), 7)
    assert cfg.teacher.negative == "text_only"
    assert load_config(write(), ["teacher=null", "objective.name=ce"]).teacher is None


@given(
    alpha=st.floats(0, 10), beta=st.none() | st.floats(0.01, 1), steps=st.integers(1, 10**9), name=st.text(min_size=1),
    dropout=st.floats(0, 0.99), taps=st.lists(st.integers(0, 40), min_size=1),
)  # fmt: skip
def test_what_is_saved_reads_back_equal(tmp_path_factory, alpha, beta, steps, name, dropout, taps):
    values = LEAST | {
        "run": {"output_dir": "out", "name": name},
        "objective": {"alpha": alpha, "plausibility": beta},
        "optimizer": {"steps": steps},
        "student": {"llm": {"model_type": "llama", "vocab_size": 60}, "encoder": "ears", "taps": taps},
    }
    cfg = Config.model_validate(values)
    path = tmp_path_factory.mktemp("kept") / "config.yaml"
    path.write_text(cfg.to_yaml(), encoding="utf-8")
    assert load_config(path) == cfg


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"objective": {"alfa": 1}}, "unknown key objective.alfa; did you mean objective.alpha?"),
        ({"objectve": {"alpha": 1}}, "unknown key objectve; did you mean objective?"),
        ({"teacher": {"pth": "x"}}, "unknown key teacher.pth; did you mean teacher.path?"),
        ({"student": {"keep_layer": 1}}, "unknown key student.keep_layer; did you mean student.keep_layers?"),
        ({"run": {"zzz": 1}}, "unknown key run.zzz"),
        ({"run": {"lr": 1}}, "unknown key run.lr; did you mean optimizer.lr?"),
        ({"optimizer": {"learning_rate": 1}}, "unknown key optimizer.learning_rate; did you mean optimizer.lr?"),
        ({"run": {"output": "x"}}, "unknown key run.output; did you mean run.output_dir?"),
        ({"run": {"every": 1}}, "did you mean checkpoint.every or validation.every or run.log_every?"),
        ({"objective": {"alpha": "much"}}, "objective.alpha: Input should be a valid number"),
        ({"optimizer": {"steps": 0}}, "optimizer.steps: Input should be greater than or equal to 1 (got 0)"),
        ({"optimizer": {"betas": [0.9, 2]}}, "optimizer.betas"),
        ({"objective": {"temperature": float("nan")}}, "objective.temperature"),
        ({"objective": {"alpha": float("inf")}}, "objective.alpha"),
        ({"run": {"seed": -1}}, "run.seed"),
        ({"student": {"taps": []}}, "student.taps"),
        ({"student": {"taps": [-1]}}, "student.taps"),
        ({"student": {"path": None, "llm": 5, "encoder": "e"}}, "student.llm: Input should be a valid"),
        ({"student": {"path": None, "llm": {"vocab_size": 5}, "encoder": "e"}}, "student: llm as an archi"),
        ({"student": {"path": None, "llm": "gpt"}}, "student: llm needs encoder"),
        ({"student": {"llm": "gpt"}}, "student: give either path"),
        ({"student": {"taps": [1], "tokenizer": "t"}}, "student: taps, tokenizer: path brings its own"),
        ({"teacher": None, "objective": {"name": "ce", "alpha": 2}}, "objective: alpha: belongs to objective distill"),
        ({"optimizer": {"epochs": 2}}, "optimizer: give either steps or epochs"),
        ({"teacher": None}, "objective distill needs a teacher section"),
        ({"objective": {"name": "ce"}}, "objective ce uses no teacher"),
        ({"objective": {"audio_dropout": 0.1}}, "objective: audio_dropout belongs to objective ce"),
        ({"objective": {"logits": "bfloat16"}}, "objective.logits bfloat16 needs run.precision bf16"),
        ({"objective": {"sharpen": 1}}, "objective: sharpen is a control without contrast"),
        ({"objective": {"gate_m": 3}}, "objective: gate_m: belongs to alpha_gate; set that, or remove it"),
        ({"objective": {"row_weight_cap": 3}}, "objective: row_weight_cap: belongs to row_weight; set that, or remove"),
        ({"objective": {"hidden_distance": "cosine"}}, "hidden_distance: belongs to hidden_weight; set that, or"),
        (
            {"objective": {"hidden_weight": 0.3, "alpha_gate": "text_certainty"}},
            "objective: hidden_weight takes one alpha for all rows; remove it, or alpha_gate",
        ),
        (
            {
                "objective": {"row_weight": "audio_advantage", "alpha": 0},
                "teacher": {"path": "t", "cache": {"path": "c", "form": "contrast"}},
            },
            "which teacher.cache.form contrast does not hold for alpha 0; set it to pair",
        ),
        ({"objective": {"alpha_gate": "text_certainty", "alpha": 0}}, "alpha_gate weakens a contrast, and alpha 0 has"),
        ({"objective": {"alpha_gate": "text_certainty", "gate_m": 1}}, "objective.gate_m: Input should be greater"),
        ({"objective": {"alpha_gate": "entropy"}}, "objective.alpha_gate: Input should be 'none' or 'text_certainty'"),
        (
            {"teacher": None, "objective": {"name": "ce", "alpha_gate": "text_certainty", "gate_m": 3}},
            "objective: alpha_gate, gate_m: belongs to objective distill",
        ),
        ({"teacher": {"placement": "cpu", "deepspeed": "a.json"}}, "placement cpu: the deepspeed file says where"),
        ({"teacher": {"placement": "nvme"}}, "teacher: placement nvme needs nvme_path"),
        ({"teacher": {"placement": "cpu", "nvme_path": "a"}}, "nvme_path is not read with placement cpu; remove it"),
        ({"teacher": {"placement": "cpu", "keep_prefix": True}}, "keep_prefix is not read with placement cpu"),
        ({"data": None}, "data"),
        ({"checkpoint": {"keep_best": 1}}, "checkpoint.keep_best compares validation passes; give data.validation"),
        ({"checkpoint": {"every": 6, "milestone_every": 4}}, "milestone_every 4 is not a multiple of every 6"),
        ({"checkpoint": {"best_metric": "loss"}}, "checkpoint.best_metric: Input should be 'kd', 'ce'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_key(write, changes, expected):
    message = refusal(write(**changes))
    assert "run.yaml: " in message and expected in message, message


def test_the_best_checkpoint_needs_a_validation_pass_at_checkpoints(write):
    data = {"train": "shards", "validation": "held_out"}
    best = {"keep_best": 2, "every": 6}
    for every in (3, 6, 12):
        load_config(write(data=data, checkpoint=best, validation={"every": every}))
    message = refusal(write(data=data, checkpoint=best, validation={"every": 4}))
    assert "make validation.every (4) a divisor or a multiple of checkpoint.every (6)" in message
    ce = {"teacher": None, "objective": {"name": "ce"}}
    message = refusal(write(data=data, checkpoint=best | {"best_metric": "kd", "every": 500}, **ce))
    assert "checkpoint.best_metric kd needs a teacher" in message


def test_a_missing_key_is_named(write):
    assert "run.output_dir is missing" in refusal(write("run: {name: a}\ndata: {train: b}\n"))


def test_a_broken_yaml_names_the_line(write):
    message = refusal(write("run:\n  name: a\n data: [\n"))
    assert "run.yaml, line 3" in message and "not valid YAML" in message
    assert "not valid YAML" in refusal(write("a: \x00"))
    twice = "run:\n  name: a\noptimizer:\n  lr: 0.1\n  steps: 3\n  lr: 0.2\n"
    assert "run.yaml, line 6: not valid YAML (key 'lr' comes twice)" in refusal(write(twice))
    assert "expected sections" in refusal(write("- a\n"))
    assert "expected sections" in refusal(write(""))


def test_a_file_that_is_none(tmp_path):
    assert "no such config file" in refusal(tmp_path / "absent.yaml")
    assert str(tmp_path) in refusal(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"run: \xff\xfe")
    assert "latin.yaml line 1: not UTF-8 text" in refusal(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("objective.alpha", "expected section.key=value"),
        ("=1", "expected section.key=value"),
        ("run.name.first=1", "run.name"),
        ("objective.alpha=[", "is not a YAML value"),
        ("objective.alhpa=1", "did you mean objective.alpha?"),
        ("alpha=1", "--set alpha=1: unknown key alpha; did you mean objective.alpha?"),
        ("optimizer.steps=many", "--set optimizer.steps=many: optimizer.steps: Input should be a valid integer"),
        ("=", "expected section.key=value"),
    ],
)
def test_a_wrong_override_is_named(write, override, expected):
    assert expected in refusal(write(run={"name": "a"}), override)


@pytest.mark.parametrize("key", SYNONYMS)
def test_every_key_that_has_other_names_exists(key):
    model = Config
    for part in key.split("."):
        annotation = model.model_fields[part].annotation
        options = get_args(annotation) or (annotation,)
        model = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
    assert model is None, "a key, and no section"


def test_a_name_means_one_key():
    names = [name for others in SYNONYMS.values() for name in others]
    assert len(names) == len(set(names))


def test_only_what_is_read_is_on_record(write):
    for objective, has_gate in (({}, False), ({"alpha_gate": "text_certainty"}, True)):
        recorded = load_config(write(objective=objective)).read_keys()["objective"]
        assert ("gate_m" in recorded) == has_gate and "alpha_gate" in recorded


def test_the_gates_are_those_of_the_loss():
    assert ALPHA_GATES == alpha_gate.ALPHA_GATES
