"""What of this machine a push refuses to send, and that no folder that we write has any of it."""

import json
import shutil

import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from caad_ds import cli
from caad_ds.models import auto
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import load, save
from caad_ds.publishing.leaks import check_text
from caad_ds.utils.errors import UserError
from tests.evaluation.conftest import tiny_parts
from tests.training.families.every import FAMILIES, tiny_family, write_model


@pytest.fixture(scope="module")
def parts():
    return tiny_parts()


@pytest.fixture(scope="module")
def student(parts, tmp_path_factory):
    """The folder of a student around an LLM that was loaded from a folder; not to be changed."""
    root = tmp_path_factory.mktemp("local")
    _, encoder, tokenizer = parts
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, vocab_size=40, num_attention_heads=4, eos_token_id=0
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "llm")
    tokenizer.save_pretrained(root / "llm")
    model = build(str(root / "llm"), encoder, None, num_queries=3, qformer_layers=1, qformer_heads=2)
    assert str(root) in json.dumps(model.config.llm_config.to_dict()), "else nothing is tested"
    save(root / "model", model, encoder, tokenizer)
    return root / "model"


def test_a_student_of_a_local_llm_can_be_pushed(student, capsys):
    assert cli.main(["push", str(student), "--repo", "lab/student", "--dry-run"]) == 0, capsys.readouterr().err
    assert not [path for path in student.glob("*.json") if str(student.parent) in path.read_text()]


def test_so_can_one_that_was_loaded_and_saved_again(student, tmp_path):
    save(tmp_path / "again", *load(student))
    assert cli.main(["push", str(tmp_path / "again"), "--repo", "lab/student", "--dry-run"]) == 0
    assert str(student.parent) not in (tmp_path / "again/config.json").read_text()


@pytest.mark.parametrize("name", ["lab/llm", "/home/me/llm", "", "C:\\models\\llm"])
def test_a_hub_id_stays_in_the_config(student, tmp_path, name):
    model, encoder, tokenizer = load(student)
    model.config.llm_config.name_or_path = name
    save(tmp_path / "named", model, encoder, tokenizer)
    origin = json.loads((tmp_path / "named/config.json").read_text())["llm_config"]["_name_or_path"]
    assert origin == (name if name == "lab/llm" else "")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_writes_the_folder_that_it_was_loaded_from(family, tmp_path):
    folder = write_model(tiny_family(family), tmp_path / "before")
    auto.load(folder).save(tmp_path / "after")
    assert [path.name for path in (tmp_path / "after").glob("*.json") if str(folder) in path.read_text()] == []
    for path in (tmp_path / "after").iterdir():
        if path.suffix == ".json":
            check_text(path)


PATHS = {
    "config.json": {"llm_config": {"_name_or_path": "/absent/models/llm"}},
    "generation_config.json": {"a": ["/data/model"]},
    "export.json": {"run": "of /absent/runs/mine"},
    "processor_config.json": {"/absent/models/llm": 1},
    "tokenizer_config.json": {"tokenizer_file": "C:\\Users\\me\\tokenizer.json"},
    "model.safetensors.index.json": {"from": "file:///absent/models/llm"},
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_of_any_machine_is_refused(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(PATHS[name]))
    with pytest.raises(UserError, match="which is on one machine alone"):
        check_text(tmp_path / name)


SECRETS = (
    "ghp_" + "a1" * 18, "sk-proj-" + "a1" * 20, "AKIA" + "A1" * 8, "glpat-" + "a1" * 10, "hf_" + "a1" * 17,
    "-----BEGIN RSA PRIVATE KEY-----", "https://me:word@host.example/x", "https://host.example/x?api_key=abc",
)  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", ["README.md", "export.json"])
def test_a_secret_is_refused(tmp_path, name, secret):
    (tmp_path / name).write_text(json.dumps({"a": f"with {secret}"}))
    with pytest.raises(UserError, match=r"looks like a (token or a key|credential)"):
        check_text(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/lab/model/blob/main/LICENSE", "runs/mine/model", "./runs/mine", "and/or", "10 / 2 / 3",
        "application/json", "</tool_call>", "`pip install caad-ds`", "[-1, 1]", "/think and /no_think",
        "POST /v1/chat/completions", "[docs](/docs/transformers/main)", "N/A /n/a", "/path/to/audio.wav",
        "{{ 'A:\\n' }}",
    ],
)  # fmt: skip
def test_what_is_no_path_is_sent(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    check_text(tmp_path / "README.md")


def test_a_card_with_a_path_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("made of\n`a: /scratch/models/llm`\n")
    with pytest.raises(UserError, match="names /scratch/models/llm, which is on one machine alone"):
        check_text(tmp_path / "README.md")


def test_tokens_of_a_vocabulary_may_look_like_paths(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"/usr/bin": 1}}}))
    check_text(tmp_path / "tokenizer.json")


def test_only_code_that_the_model_loads_is_sent(student, tmp_path, capsys):
    folder = shutil.copytree(student, tmp_path / "model")
    (folder / "mine.py").write_text("from .caad import x\n")
    (folder / "encoder").mkdir()
    (folder / "encoder/also.py").write_text("")
    assert cli.main(["push", str(folder), "--repo", "lab/student", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "left out  'mine.py' (code that no auto_map names)" in printed
    assert "left out  'encoder/also.py' (code that no auto_map names)" in printed
    assert printed.count("left out") == 2 and "  rates.py\n" in printed
    (folder / "rates.py").unlink()
    assert cli.main(["push", str(folder), "--repo", "lab/student", "--dry-run"]) == 2
    assert "rates.py: an auto_map or a module of the model needs it" in capsys.readouterr().err


def test_parts_that_the_index_does_not_name_stay_here(student, tmp_path, capsys):
    folder = shutil.copytree(student, tmp_path / "model")
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    shutil.copyfile(folder / "model.safetensors", folder / names[1])
    (folder / "model.safetensors").rename(folder / names[0])
    index = {"weight_map": dict.fromkeys(load_file(folder / names[0]), names[0])}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert cli.main(["push", str(folder), "--repo", "lab/student", "--dry-run"]) == 0
    assert f"left out  '{names[1]}' (not named by model.safetensors.index.json)" in capsys.readouterr().out
    (folder / names[1]).rename(folder / "model.safetensors")
    assert cli.main(["push", str(folder), "--repo", "lab/student", "--dry-run"]) == 2
    assert "an model.safetensors.index.json that does not name it" in capsys.readouterr().err
