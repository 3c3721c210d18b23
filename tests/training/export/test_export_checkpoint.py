"""`caad-ds export`: the model folder of a checkpoint is the one that the run leaves."""

import json
import os
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from caad_ds import cli
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.model_hashes import model_hash
from caad_ds.models.speech_lm import adapters
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import load
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.training.export.model_folder import write_model
from tests.training.launching import Run, tracked, train, weights
from tests.training.tiny import config, llama


def files(folder) -> dict:
    """The bytes of all files below a folder, but for what only an export holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "export.json"
    }


@pytest.fixture(scope="module", params=["connector", "lora", "all", "bf16"])
def finished(world, tmp_path_factory, request):
    """The output of a run that trains these weights, with its config."""
    out = tmp_path_factory.mktemp("exported") / "out"
    train(
        config(
            world,
            out,
            student={"train": "connector" if request.param == "bf16" else request.param},
            run={"precision": "bf16" if request.param == "bf16" else "fp32"},
            optimizer={"steps": 4},
            checkpoint={"every": 2},
            tracking={"enabled": False},
        )
    )
    return out


def test_a_run_exports_what_it_leaves_at_its_end(finished, tmp_path, capsys):
    out = tmp_path / "a.b" / "model"
    assert cli.main(["export", str(finished), "--out", str(out)]) == 0
    assert f"exported {finished / 'checkpoints/step-00000004'} to {out}" in capsys.readouterr().out
    assert files(out) == files(finished / "model")
    assert json.loads((out / "export.json").read_text()).items() >= {"run": "tiny", "step": 4}.items()
    assert sorted(path.name for path in out.parent.iterdir()) == ["model"]
    assert cli.main(["export", str(finished), "--out", str(out)]) == 0  # its own is replaced


def test_the_run_names_its_model_and_its_exports(world, tmp_path, monkeypatch, caplog):
    """The model is uploaded as well where that is asked for, and MLflow's variables say where to."""
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": "tests"}
    out, tracking = tmp_path / "out", {"uri": None, "experiment": None, "log_model": True}
    run = Run(config(world, out, optimizer={"steps": 4}, checkpoint={"every": 2}, tracking=tracking), env=variables)
    assert run.wait() == [0], run.output()
    assert "mlflow.db (MLFLOW_TRACKING_URI), experiment tests (MLFLOW_EXPERIMENT_NAME), run " in run.output()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for step in (2, 4):
        assert cli.main(["export", str(out / f"checkpoints/step-{step}"), "--out", str(tmp_path / f"{step}")]) == 0
    client, run = tracked(out)
    hashes = [model_hash(folder) for folder in (tmp_path / "2", tmp_path / "4", out / "model")]
    assert hashes[0] != hashes[1] == hashes[2] == run.data.tags["model_sha256"]
    assert run.data.tags[f"exported.{hashes[0]}"] == "step-00000002"
    assert run.data.params["tracking.experiment"] == "tests"
    assert "model/model.safetensors" in {file.path for file in client.list_artifacts(run.info.run_id, "model")}
    assert "MLflow did not get" not in caplog.text
    (tmp_path / "mlflow.db").unlink()
    assert cli.main(["export", str(out), "--out", str(tmp_path / "4")]) == 0
    assert "MLflow did not get the export" in caplog.text and not (tmp_path / "mlflow.db").exists()


def test_one_checkpoint_is_exported_and_loads(finished, tmp_path):
    folder = finished / "checkpoints/step-00000002"
    assert cli.main(["export", str(folder), "--out", str(tmp_path / "model")]) == 0
    trained, got = load_file(folder / "trainable.safetensors"), weights(tmp_path)
    assert trained and all(torch.equal(got[name], tensor) for name, tensor in trained.items() if name in got)
    last = weights(finished)
    assert any(not torch.equal(got[name], last[name]) for name in got)
    model, encoder, tokenizer = load(tmp_path / "model")
    assert encoder.taps == [0, 1] and len(tokenizer) == model.config.llm_config.vocab_size
    again = SpeechLM.from_pretrained(tmp_path / "model", dtype="auto").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in got.items())


def test_adapters_are_merged_or_kept(world, tmp_path):
    out = tmp_path / "out"
    train(
        config(
            world,
            out,
            student={"train": "lora", "lora": {"encoder": True}},
            optimizer={"steps": 2},
            tracking={"enabled": False},
        )
    )
    assert cli.main(["export", str(out), "--keep-adapters", "--out", str(tmp_path / "model")]) == 0
    kept, merged = load(tmp_path / "model")[0], load(out / "model")[0]
    assert kept.config.lora["rank"] == 16 and merged.config.lora is None
    assert any("lora_B" in name for name in kept.state_dict())
    encoder_weights = [load(folder)[1].state_dict() for folder in (tmp_path / "model", out / "model")]
    assert all(torch.equal(value, encoder_weights[1][name]) for name, value in encoder_weights[0].items())
    adapters.merge(kept)
    assert kept.state_dict().keys() == merged.state_dict().keys()
    assert all(torch.equal(value, merged.state_dict()[name]) for name, value in kept.state_dict().items())


def test_buffers_of_the_llm_are_written_beside_its_weights(world, tmp_path):
    """Gemma 4 scales each layer by a number that is no parameter."""
    _, speech_encoder, tokenizer = load(world / "teacher")
    gemma = llama(2, len(tokenizer)) | {
        "model_type": "gemma4_text", "head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    model = build(gemma, speech_encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2)
    scales = [layer.layer_scalar.fill_(0.5 + n) for n, layer in enumerate(model.llm.base_model.layers)]
    write_model(
        tmp_path / "model",
        SpeechAudioLM(model, speech_encoder, tokenizer),
        dict(model.named_parameters()),
        torch.float32,
    )
    again = load(tmp_path / "model")[0].llm.base_model.layers
    assert [layer.layer_scalar for layer in again] == scales


def test_a_checkpoint_by_its_step_and_files_that_follow_the_umask(finished, tmp_path, capsys):
    before = os.umask(0o027)
    try:
        assert cli.main(["export", str(finished / "checkpoints/step-2"), "--out", str(tmp_path / "model")]) == 0
    finally:
        os.umask(before)
    assert f"exported {finished / 'checkpoints/step-00000002'} to " in capsys.readouterr().out
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").rglob("*.*")} == {0o640}
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (finished / "model").rglob("*.*")}
    assert len(modes) == 1, "the weights have the mode of the config"


def refusal(capsys, *arguments) -> str:
    assert cli.main(["export", *map(str, arguments)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_what_it_refuses(finished, world, tmp_path, capsys):
    out = tmp_path / "out"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    assert f"{foreign}: exists, and is not an export" in refusal(capsys, finished, "--out", foreign)
    assert (foreign / "thesis.tex").exists()
    assert "nowhere: no such folder; give a run" in refusal(capsys, tmp_path / "nowhere", "--out", out)
    absent = finished / "checkpoints/step-00000009"
    expected = f"{absent}: no such checkpoint; there are step-00000002, step-00000004"
    assert refusal(capsys, absent, "--out", out) == f"caad-ds: error: {expected}"
    copy = shutil.copytree(finished, tmp_path / "copy")
    newest = copy / "checkpoints/step-00000004"
    (newest / "trainable.safetensors").write_bytes(b"x")
    assert f"{newest / 'trainable.safetensors'}: damaged or missing" in refusal(capsys, newest, "--out", out)
    assert cli.main(["export", str(copy), "--out", str(out)]) == 0  # a run's folder goes back to what is whole
    assert "; trying step-00000002" in capsys.readouterr().out
    changed = copy / "config.yaml"
    changed.write_text(changed.read_text().replace("num_queries: 4", "num_queries: 3"))
    assert f"{changed}: its student has other trainable weights" in refusal(capsys, copy, "--out", out)


def test_another_chat_template_than_the_runs_is_refused(finished, world, tmp_path, capsys):
    """A model that reads other prompts than it was trained on would answer worse, and nothing would say why."""
    copy = shutil.copytree(finished, tmp_path / "copy")
    tokenizer = shutil.copytree(world / "tokenizer", tmp_path / "tokenizer")
    config_file = copy / "config.yaml"
    values = config_file.read_text()
    assert values.count("tokenizer: null") == 1
    config_file.write_text(values.replace("tokenizer: null", f"tokenizer: {tokenizer}"))
    assert cli.main(["export", str(copy), "--out", str(tmp_path / "out")]) == 0
    template = tokenizer / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    assert "its student's tokenizer or chat template is not the one" in refusal(capsys, copy, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_does_not_record_its_prompts_is_refused_by_that(finished, tmp_path, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    folder = copy / "checkpoints/step-00000004"
    recorded = json.loads((folder / "state.json").read_text())
    del recorded["state"]["identity"]["prompts"]
    (folder / "state.json").write_text(json.dumps(recorded))
    line = refusal(capsys, folder, "--out", tmp_path / "out")
    assert f"{folder}: it does not record the tokenizer and chat template" in line
    assert not (tmp_path / "out").exists()


def test_other_bases_than_the_runs_are_refused(finished, tmp_path, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    changed = copy / "config.yaml"
    values = changed.read_text()
    encoder_path = next(line.split(": ")[1] for line in values.splitlines() if line.strip().startswith("encoder:"))
    other = shutil.copytree(encoder_path, tmp_path / "ears")
    [file] = other.glob("*.safetensors")
    heard = load_file(file)
    heard["encoder.whisper.conv1.bias"][0] += 1
    save_file(heard, file, metadata={"format": "pt"})
    changed.write_text(values.replace(encoder_path, str(other)))
    line = refusal(capsys, copy, "--out", tmp_path / "out")
    assert f"{changed}: the frozen weights of its student (encoder, LLM) are not those" in line
    assert not (tmp_path / "out").exists()
