"""`base:` in a run's YAML: inherited keys, replaced keys, and errors that name the right file."""

import pytest
import yaml

from caad_ds.config.reading import load_config
from tests.config.refusals import refusal

BASE = {
    "run": {"name": "base", "output_dir": "out", "seed": 7},
    "data": {"train": "shards"},
    "teacher": {"path": "teacher", "negative": "silence"},
    "student": {"llm": {"model_type": "llama", "hidden_size": 16}, "encoder": "ears", "taps": [0, 1]},
    "objective": {"plausibility": 0.1},
    "optimizer": {"steps": 3, "betas": [0.5, 0.6]},
}


@pytest.fixture
def files(tmp_path):
    """Write YAML files below a folder, by their names, and return that folder."""

    def write(**contents):
        for name, values in {"base": BASE, **contents}.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return tmp_path

    return write


def test_a_files_own_keys_win_and_the_others_are_inherited(files):
    own = {
        "base": "base.yaml",
        "run": {"name": "own"},
        "student": {"llm": {"hidden_size": 32}, "taps": [3]},
        "objective": {"plausibility": None},
        "optimizer": {"betas": [0.7, 0.8]},
    }
    cfg = load_config(files(own=own) / "own.yaml")
    assert (cfg.run.name, cfg.run.seed, str(cfg.run.output_dir)) == ("own", 7, "out")
    assert cfg.student.llm == {"model_type": "llama", "hidden_size": 32}
    assert (cfg.student.taps, cfg.student.encoder, cfg.optimizer.betas) == ([3], "ears", (0.7, 0.8))
    assert cfg.objective.plausibility is None and cfg.teacher.negative == "silence"
    cfg = load_config(
        files(own={"base": "base.yaml", "teacher": None, "objective": None}) / "own.yaml", ["objective.name=ce"]
    )
    assert cfg.teacher is None and cfg.objective.plausibility is None
    cfg = load_config(files(own={"base": "base.yaml", "student": {"llm": "gpt"}}) / "own.yaml")
    assert cfg.student.llm == "gpt"


def test_a_base_has_a_base_by_the_path_from_its_own_folder(files, monkeypatch):
    root = files(sub__middle={"base": "../base.yaml", "run": {"seed": 8, "name": "middle"}},
                 sub__own={"base": "middle.yaml", "run": {"name": "own"}})  # fmt: skip
    monkeypatch.chdir(root)
    for path in ("sub/own.yaml", root / "sub/own.yaml"):
        cfg = load_config(path, ["optimizer.steps=9"])
        assert (cfg.run.name, cfg.run.seed, cfg.optimizer.steps) == ("own", 8, 9)
    assert cfg.data.train == "shards", "a path in a config is not the base's"


def test_what_is_saved_stands_alone(files, tmp_path):
    cfg = load_config(files(own={"base": "base.yaml", "run": {"name": "own"}}) / "own.yaml")
    alone = tmp_path / "alone/config.yaml"
    alone.parent.mkdir()
    alone.write_text(cfg.to_yaml())
    assert "base" not in yaml.safe_load(alone.read_text()) and load_config(alone) == cfg


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"own": {"base": "absent.yaml"}}, "/own.yaml: its base {}/absent.yaml: no such config file"),
        ({"own": {"base": "."}}, "/own.yaml: its base {}: cannot be read (Is a directory)"),
        ({"own": {"base": "bad.yaml"}, "bad": "- a\n"}, "/own.yaml: its base {}/bad.yaml: expected sections"),
        ({"own": {"base": "bad.yaml"}, "bad": ""}, "/own.yaml: its base {}/bad.yaml: expected sections"),
        ({"own": {"base": "bad.yaml"}, "bad": "a: [\n"}, "/own.yaml: its base {}/bad.yaml, line 2: not valid YAML"),
        ({"own": {"base": "own.yaml"}}, "/own.yaml: its base {}/own.yaml inherits from {}/own.yaml again"),
        (
            {"own": {"base": "a.yaml"}, "a": {"base": "b.yaml"}, "b": {"base": "a.yaml"}},
            "/b.yaml: its base {}/a.yaml inherits from {}/b.yaml again; remove `base`",
        ),
        ({"own": {"base": None}}, "/own.yaml: base: expected the path of a YAML file, relative to this one (got None)"),
        ({"own": {"base": ["base.yaml"]}}, "/own.yaml: base: expected the path of a YAML file"),
    ],
)
def test_a_base_that_is_none_names_both_files(files, contents, expected):
    root = files(**contents)
    assert refusal(root / "own.yaml").startswith(f"{root}{expected.format(root, root)}")


@pytest.mark.parametrize(
    ("own", "base", "message"),
    [
        ({}, {"objective": {"alfa": 1}}, "base.yaml: unknown key objective.alfa; did you mean objective.alpha?"),
        ({"objective": {"alpha": 1}}, {"objective": {"alfa": 1}}, "base.yaml: unknown key objective.alfa"),
        ({"objective": {"alfa": 1}}, {}, "own.yaml: unknown key objective.alfa"),
        ({}, {"objectve": {"alpha": 1}}, "base.yaml: unknown key objectve"),
        ({}, {"optimizer": {"steps": 3, "betas": [0.9, 2]}}, "base.yaml: optimizer.betas.1: Input should be"),
        ({"optimizer": {"betas": [0.9, 2]}}, {}, "own.yaml: optimizer.betas.1: Input should be"),
        ({"optimizer": {"epochs": 1}}, {}, "own.yaml: optimizer: give either steps or epochs"),
        ({"run": {"seed": -1}}, {"run": {"output_dir": "out", "peak_tflops": 0}}, "base.yaml: run.peak_tflops"),
        ({"run": {"seed": -1}}, {"run": {"output_dir": "out", "peak_tflops": 0}}, "own.yaml: run.seed"),
        ({"data": None}, {}, "own.yaml: data: Input should be"),
    ],
)
def test_a_mistake_is_reported_with_the_file_that_holds_it(files, own, base, message):
    root = files(own={"base": "base.yaml"} | own, base=BASE | base)
    assert f"{root / message}" in refusal(root / "own.yaml")


def test_a_mistake_in_an_override_is_the_overrides(files):
    own = files(own={"base": "base.yaml"}) / "own.yaml"
    assert refusal(own, "run.seed=-1").startswith("--set run.seed=-1: run.seed")
    assert refusal(own, "optimizer.betas=[0, 2]").startswith("--set optimizer.betas=[0, 2]: optimizer.betas.1: ")
    assert "base is read from a YAML file alone" in refusal(own, "base=base.yaml")
