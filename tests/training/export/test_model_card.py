"""What a card says of bases, licences and settings, without a training."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard, constants

from caad_ds.config.reading import load_config
from caad_ds.training.export.base_models import Base, bases_of
from caad_ds.training.export.model_card import write_card
from caad_ds.training.export.recipe import recipe
from caad_ds.utils.markdown import code, one_line, plain

CONFIG = """
run: {name: mine, output_dir: OUT}
data: {train: /data/shards}
teacher: {path: lab/teacher, negative: noise, deepspeed: /home/me/teacher.json}
student: {llm: lab/llm, encoder: lab/ears, deepspeed: /home/me/student.json}
optimizer: {steps: 3, lr: 0.001}
tracking: {uri: "https://me:hunter2@tracking.example"}
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a README into the hub's cache on this machine."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str, front: str) -> Path:
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text("0123")
        (snapshot / "README.md").write_text(f"---\n{front}\n---\n")
        return snapshot

    return put


@pytest.fixture
def read(tmp_path):
    """The config with overrides."""
    (tmp_path / "config.yaml").write_text(CONFIG.replace("OUT", str(tmp_path / "run")))
    return lambda *overrides: load_config(tmp_path / "config.yaml", list(overrides))


@pytest.fixture
def card(tmp_path):
    """The card of a model whose `config.json` says this."""

    def write(cfg, **config) -> ModelCard:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        if config:
            (folder / "config.json").write_text(json.dumps(config))
        reader = SimpleNamespace(longest_seconds=30.0, most_audios=1, transcript="none")
        write_card(folder, cfg=cfg, run=tmp_path / "run", step=3, reader=reader)
        return ModelCard.load(folder / "README.md")

    return write


def test_one_licence_of_all_bases_is_the_models(read, hub, card):
    for name in ("lab/teacher", "lab/llm", "lab/ears"):
        hub(name, "license: apache-2.0")
    made = card(read(), model_type="caad_speech_lm")
    assert made.data.license == "apache-2.0" and made.data.base_model == ["lab/llm", "lab/ears"]
    assert made.data.base_model_relation == "finetune"
    assert "| teacher | [lab/teacher](https://huggingface.co/lab/teacher) | apache-2.0 |" in made.text
    assert "The licence of this model is not recorded" not in made.text


@pytest.mark.parametrize(
    "teachers", ["license: mit", "", "license: unknown", "license: [mit, apache-2.0]", "license: Do as you like"]
)
def test_bases_of_several_or_unknown_licences_leave_it_open(read, hub, card, teachers):
    for name in ("lab/llm", "lab/ears"):
        hub(name, "license: apache-2.0")
    hub("lab/teacher", teachers)
    made = card(read(), model_type="caad_speech_lm")
    assert made.data.license == "unknown" and "The licence of this model is not recorded" in made.text
    licence = "mit" if teachers == "license: mit" else "not recorded; see its page"
    assert f"(https://huggingface.co/lab/teacher) | {licence} |" in made.text


def test_a_licence_by_name_keeps_its_name_and_link(read, hub, card):
    own = "license: other\nlicense_name: own\nlicense_link: https://example.org/own"
    for name in ("lab/teacher", "lab/llm", "lab/ears"):
        hub(name, own)
    data = card(read(), model_type="caad_speech_lm").data
    assert (data.license, data.license_name, data.license_link) == ("other", "own", "https://example.org/own")


def test_a_link_beside_a_bases_card_leads_to_that_base(read, hub, card):
    """Two bases with a licence file called `LICENSE` have two licences."""
    for name in ("lab/teacher", "lab/llm", "lab/ears"):
        hub(name, "license: other\nlicense_link: LICENSE")
    assert {base.licence_link for base in bases_of(read())} == {
        f"https://huggingface.co/{name}/blob/main/LICENSE" for name in ("lab/teacher", "lab/llm", "lab/ears")
    }
    assert card(read(), model_type="caad_speech_lm").data.license == "unknown"


def test_the_encoder_in_a_models_folder_has_the_models_licence(read, hub, tmp_path):
    encoder = tmp_path / "teacher/encoder"
    encoder.mkdir(parents=True)
    (tmp_path / "teacher/README.md").write_text("---\nlicense: mit\n---\n")
    licences = {base.role: base.licence for base in bases_of(read(f"student.encoder={encoder}"))}
    assert licences["encoder"] == "mit"


def test_folders_are_named_without_their_path(read, hub, tmp_path):
    snapshot = hub("lab/ears", "license: mit")
    other = tmp_path / "somewhere" / "weights"
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"_name_or_path": "lab/original"}')
    bases = bases_of(
        read(f"teacher.path={tmp_path}/runs/one/model", f"student.llm={other}", f"student.encoder={snapshot}")
    )
    assert bases == [
        Base("LLM", "weights", "lab/original"),
        Base("encoder", "ears", "lab/ears", licence="mit"),
        Base("teacher", "one"),
    ]
    (other / "config.json").write_text(json.dumps({"_name_or_path": str(other)}))
    assert bases_of(read(f"student.llm={other}"))[0] == Base("LLM", "weights")


def test_the_recipe_has_what_decides_the_course_and_no_path(read):
    rows = {key: value for key, value, _ in recipe(read())}
    assert rows.items() >= {"objective.alpha": "1.0", "teacher.negative": "noise", "optimizer.lr": "0.001"}.items()
    assert not any("/" in value for value in rows.values()) and "hunter2" not in str(rows)
    gated = {key: value for key, value, _ in recipe(read("objective.alpha_gate=text_certainty", "objective.gate_m=4"))}
    assert gated.keys() - rows.keys() == {"objective.alpha_gate", "objective.gate_m"}
    plain_kd = {key for key, _, _ in recipe(read("objective.alpha=0"))}
    assert rows.keys() - plain_kd == {"teacher.negative"}, "without a contrast there is no second path"


@pytest.mark.parametrize("objective", [{}, {"alpha": 0}, {"alpha": 0, "row_weight": "audio_advantage"}])
def test_a_cache_of_both_paths_adds_no_negative_to_the_recipe(read, objective):
    """A `pair` cache stores the second path, which the target may not depend on: standard KD does not use it."""
    sets = [f"objective.{key}={value}" for key, value in objective.items()]
    online = {key for key, _, _ in recipe(read(*sets))}
    pair = {key for key, _, _ in recipe(read(*sets, "teacher.cache.path=cache"))}
    assert ("teacher.negative" in online) == ("teacher.negative" in pair) == (objective != {"alpha": 0})


def test_cross_entropy_names_no_teacher(read, card, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG.replace("OUT", str(tmp_path / "run")) + "objective: {name: ce}\n")
    text = (tmp_path / "config.yaml").read_text().splitlines()
    (tmp_path / "config.yaml").write_text("\n".join(line for line in text if not line.startswith("teacher")))
    made = card(load_config(tmp_path / "config.yaml"), model_type="caad_speech_lm")
    assert "without a teacher" in made.text and "objective.alpha" not in made.text
    assert "caad" not in made.data.tags and "knowledge-distillation" not in made.data.tags


@pytest.mark.parametrize(
    ("config", "has", "lacks"),
    [
        ({"model_type": "caad_speech_lm", "architectures": ["SpeechLM"]}, "caad_ds.load", "from transformers"),
        ({"model_type": "caad_speech_lm", "auto_map": {}}, 'pipeline("any-to-any", model="MODEL"', "AutoProcessor"),
        ({"model_type": "qwen2_audio", "architectures": ["Qwen2AudioForConditionalGeneration"]},
         "import AutoProcessor, Qwen2AudioForConditionalGeneration", "pipeline("),
        ({"model_type": "qwen2_audio", "architectures": ["x; import os"]}, "caad_ds.load", "import os"),
        ({}, "LoRA adapters alone", "AutoProcessor"),
    ],
)  # fmt: skip
def test_how_it_is_used_follows_its_kind(read, card, config, has, lacks):
    made = card(read(), **config)
    assert has in made.text and lacks not in made.text
    relation = "finetune" if config else "adapter"
    assert (made.data.base_model_relation, made.data.library_name == "peft") == (relation, not config)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"), ("a\n# b", "a # b"), ("<i>&", "&lt;i&gt;&amp;"), ("[a](b)", r"\[a\](b)"),
        ("/home/me/data", "data"), (r"C:\data\mine", "mine"), ("\x1b[0m\x00a", r"\[0m a"), ("\ud800", ""),
        ("x" * 300, "x" * 197 + "..."),
    ],
)  # fmt: skip
def test_a_users_text_is_shown_as_it_is(text, shown):
    assert plain(text) == shown


def test_code_holds_no_end_of_code():
    assert code("a`|`b") == "`a'\\|'b`" and one_line("a\nb") == "a b"
