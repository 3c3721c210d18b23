"""Trained weights of every family, and saved models loaded by its own class."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch
from peft import PeftModel

from caad_ds.models import auto, families
from caad_ds.models.model_hashes import frozen_hash, model_hash
from caad_ds.utils.errors import UserError
from tests.models.families.every.conftest import FAMILIES, own_logits


def test_every_family_is_tested():
    ours = {module.name for module in iter_modules(families.__path__)} - {"caad_speech_lm"}
    assert set(FAMILIES) == ours
    for name in FAMILIES:
        assert import_module(f"{families.__name__}.{name}").FAMILY.model_type == name


def with_adapters(folder):
    """The model with adapters that do something, in evaluation."""
    lm = auto.load(folder)
    lm.add_adapters({"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": True})
    for name, parameter in lm.module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    lm.module.eval()
    return lm


def test_what_is_saved_is_what_the_family_reads(parts, folder, tmp_path, samples):
    lm = auto.load(folder)
    lm.module.eval()
    lm.save(tmp_path)
    model, report = parts.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    for name, weight in lm.module.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    again = auto.load(tmp_path)
    again.module.eval()
    assert again.reader.identity() == lm.reader.identity()
    batch = lm.reader.collate(samples)
    assert torch.equal(own_logits(again, again.reader.collate(samples)), own_logits(lm, batch))
    before, after = (json.loads((each / "config.json").read_text()) for each in (folder, tmp_path))
    assert before.keys() - after.keys() <= {"dtype"}


@pytest.mark.parametrize("mode", ["connector", "lora", "all"])
def test_what_trains(parts, folder, samples, mode):
    """The connector in all modes; adapters on the decoder only; nothing in the tower or in unused parts."""
    lm = auto.load(folder)
    if mode == "lora":
        lm.add_adapters({"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": False})
    lm.choose_weights(mode)
    lm.module.train()
    lm.freeze_running_parts()
    trained = {name for name, weight in lm.named_parameters() if weight.requires_grad}
    decoder = {id(weight) for weight in lm.decoder.parameters()}
    connector = {id(weight) for weight in lm.connector.parameters()}
    head = {id(weight) for weight in lm.module.get_output_embeddings().parameters()}
    for name, weight in lm.named_parameters():
        if id(weight) in connector:
            assert name in trained
        elif "lora_" in name:
            assert name in trained and id(weight) in decoder
        else:
            assert (name in trained) == (mode == "all" and id(weight) in decoder | head), name
    with torch.enable_grad():
        hidden, path = lm.hidden_and_path(lm.reader.collate(samples))
        (hidden.square().sum() + 0 * path).backward()
    assert all(weight.grad.abs().max() > 0 for weight in lm.connector.parameters())
    if mode == "all":
        without = [name for name, weight in lm.named_parameters() if weight.requires_grad and weight.grad is None]
        assert without == ([] if lm.module.get_output_embeddings().weight.grad is not None else ["lm_head.weight"])


def test_merged_adapters_are_saved_as_weights(parts, folder, tmp_path, samples):
    lm = with_adapters(folder)
    batch = lm.reader.collate(samples)
    adapted = own_logits(lm, batch)
    assert (adapted - own_logits(parts.lm, batch)).abs().max() > 1e-3
    made = lm.rebuilt({name: weight.clone() for name, weight in lm.named_parameters()}, torch.float32)
    made.merge_adapters()
    made.module.eval()
    made.save(tmp_path)
    again = auto.load(tmp_path)
    again.module.eval()
    parts.close(own_logits(again, batch), adapted, 1e-4)


def test_kept_adapters_are_read_by_peft_on_the_familys_class(parts, folder, tmp_path, samples):
    lm = with_adapters(folder)
    batch = lm.reader.collate(samples)
    lm.save(tmp_path)
    read = PeftModel.from_pretrained(parts.cls.from_pretrained(folder), tmp_path).eval()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **lm.audio_inputs(batch)}
    found = read(**inputs).logits.float().flatten(0, 1)[batch.answer_rows]
    factor = (lm.of.logits_factor or (lambda config: 1.0))(lm.module.config)
    parts.close(factor * found, own_logits(lm, batch))


def test_adapters_on_a_tied_head_are_refused(folder):
    lm = auto.load(folder)
    table, head = lm.module.get_input_embeddings(), lm.module.get_output_embeddings()
    settings = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["embed_tokens"], "encoder": False}
    if table.weight is head.weight:
        with pytest.raises(UserError, match="they name the LLM's head, which takes no adapters"):
            lm.add_adapters(settings)
    else:
        lm.add_adapters(settings)


def test_bf16(folder, samples):
    lm = auto.load(folder, torch.bfloat16)
    lm.module.eval()
    kept = set(lm.module._keep_in_fp32_modules_strict or ())  # what the family's own class leaves in fp32
    for name, weight in lm.module.named_parameters():
        assert weight.dtype == (torch.float32 if kept & {*name.split(".")} else torch.bfloat16), name
    whole = auto.load(folder)
    whole.module.eval()
    batch = lm.reader.collate(samples)
    far = (lm.hidden(batch).float() - whole.hidden(batch)).norm() / whole.hidden(batch).norm()
    assert 0 < far < 0.2


def test_a_model_of_an_architecture_file(made, folder, tmp_path, samples):
    """Random weights in fp32 with a folder's processor; all weights but idle ones are trained, also the tower's."""
    file = tmp_path / "model.json"
    file.write_text((folder / "config.json").read_text())
    lm = auto.build(str(file), folder)
    assert {weight.dtype for weight in lm.module.parameters()} == {torch.float32}
    lm.choose_weights("all")
    lm.module.train()
    lm.freeze_running_parts()
    idle = {id(weight) for name in lm.of.idle for weight in lm.module.base_model.get_submodule(name).parameters()}
    assert all(weight.requires_grad == (id(weight) not in idle) for weight in lm.tower.parameters())
    buffers = {name: buffer.clone() for name, buffer in lm.module.named_buffers()}
    with torch.enable_grad():
        hidden, _ = lm.hidden_and_path(lm.reader.collate(samples))
        hidden.square().sum().backward()
    assert hidden.isfinite().all()
    assert all((weight.grad is None) == (id(weight) in idle) for weight in lm.tower.parameters())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in lm.module.named_buffers())


def changed(folder, tmp_path, name, change) -> Path:
    """A copy of the folder in which a JSON file's values are changed."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    values = json.loads((copy / name).read_text())
    change(values)
    (copy / name).write_text(json.dumps(values))
    return copy


def test_a_config_with_another_placeholder_is_refused(parts, folder, tmp_path):
    """Its forward would drop the audio, which not every family reports."""

    def other(values):
        for key, value in values.items():
            if isinstance(value, dict):
                other(value)
            elif key in ("audio_token_id", "audio_token_index"):
                values[key] = parts.reader.tokenizer.convert_tokens_to_ids("a")

    with pytest.raises(UserError, match=r"its forward fails on the audio|its states do not depend on the audio"):
        auto.load(changed(folder, tmp_path, "config.json", other))


def test_the_hash_of_a_folder_has_every_file_that_is_read(folder, tmp_path):
    """But the generation config, of which the end tokens count, and a file that holds nothing."""
    for file in sorted(folder.iterdir()):
        if file.name in ("generation_config.json", "spk_dict.pt"):
            continue
        copy = Path(shutil.copytree(folder, tmp_path / file.name))
        (copy / file.name).write_bytes((copy / file.name).read_bytes() + b" ")
        assert model_hash(copy) != model_hash(folder), file.name


def test_saved_buffers_are_part_of_what_is_frozen(folder):
    """A run does not resume on a base with other running means."""
    lm = auto.load(folder)
    before = frozen_hash(lm)
    for name, buffer in lm.module.named_buffers():
        if name in lm.module.state_dict() and buffer.is_floating_point():
            buffer.add_(1)
            assert frozen_hash(lm) != before, name
            return
