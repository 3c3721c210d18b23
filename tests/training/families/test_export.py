"""What a finished run of a family of transformers leaves: its own published layout, adapters merged or for PEFT."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from caad_ds import cli
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.models import auto
from tests.training.families.plain import logits
from tests.training.families.qwen import foreign
from tests.training.launching import train, weights

SHORT = {"optimizer": {"steps": 4}, "checkpoint": {"every": 2}, "tracking": {"enabled": False}}


@pytest.fixture(scope="module")
def finished(audio_world, tmp_path_factory):
    """The output of a run with adapters on decoder and tower."""
    out = tmp_path_factory.mktemp("families") / "out"
    lora = {"rank": 4, "alpha": 8, "encoder": True}
    train(foreign(audio_world, out, "lora", student={"lora": lora}, **SHORT))
    return out


def files(folder: Path) -> dict[str, bytes]:
    """The files below a folder, but for what only an export holds."""
    there = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in there.items() if name != "export.json"}


def test_an_export_is_the_runs_own_folder(finished, tmp_path):
    assert cli.main(["export", str(finished), "--out", str(tmp_path / "model")]) == 0
    assert files(tmp_path / "model") == files(finished / "model")
    assert cli.main(["export", str(finished / "checkpoints/step-2"), "--out", str(tmp_path / "earlier")]) == 0
    assert files(tmp_path / "earlier").keys() == files(finished / "model").keys()
    first, last = load_file(tmp_path / "earlier/model.safetensors"), weights(finished)
    assert any(not torch.equal(first[name], weight) for name, weight in last.items())


def test_the_familys_class_reads_the_folder(finished, audio_world):
    model, info = Qwen2AudioForConditionalGeneration.from_pretrained(finished / "model", output_loading_info=True)
    assert not any(info.values()), info
    [processor, before] = [AutoProcessor.from_pretrained(finished / "model"), auto.load(audio_world / "narrow")]
    assert processor.chat_template == before.reader.processor.chat_template
    assert files(finished / "model").keys() >= files(audio_world / "narrow").keys() - {"chat_template.jinja"}
    for name, value in model.state_dict().items():
        moved = not torch.equal(value, before.module.state_dict()[name])
        linear = value.dim() == 2 and "embed" not in name and "lm_head" not in name
        assert moved == (linear or "multi_modal_projector" in name), name


def test_adapters_that_are_kept_stand_on_the_students_folder(finished, audio_world, tmp_path):
    """PEFT reads them, on decoder and tower, and the projector; the logits are those of the merged model."""
    folder = tmp_path / "adapters"
    assert cli.main(["export", str(finished), "--keep-adapters", "--out", str(folder)]) == 0
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json"} <= files(folder).keys()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(audio_world / "narrow")
    merged, kept = auto.load(finished / "model"), auto.load(config["base_model_name_or_path"])
    data = IndexedReader(audio_world / "shards")
    batch = merged.reader.collate([data[number] for number in range(4)])
    with torch.no_grad():
        before = logits(kept, batch)
        PeftModel.from_pretrained(kept.module, folder)  # in place
        after = logits(kept, batch)
        torch.testing.assert_close(after, logits(merged, batch), rtol=0, atol=1e-5)
        assert (after - before).abs().max() > 1e-2


def test_adapters_without_a_folder_to_stand_on_are_refused(finished, tmp_path, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    file = copy / "config.yaml"
    file.write_text(file.read_text().replace("keep_layers: null", "keep_layers: 2"))
    assert cli.main(["export", str(copy), "--keep-adapters", "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--keep-adapters: the student began as no model folder" in line
    assert not (tmp_path / "out").exists()
