"""What holds for every family of transformers, compared with its own class and its own processor."""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import PeftModel

from caad_ds.config.schema import NEGATIVES
from caad_ds.data.batch import Batch
from caad_ds.generation.decoding import Contrast, generate
from caad_ds.models import auto, families, negatives
from caad_ds.models.folder_hash import model_hash
from caad_ds.models.processor_reader import WINDOWS
from caad_ds.models.prompts.prompt_encoder import end_tokens
from caad_ds.training.identity import frozen_hash
from caad_ds.utils.errors import UserError
from data_prep.ingest.window import window_seconds
from tests.models.families import tiny
from tests.models.families.conftest import NEAR, audio, sample
from tests.models.families.tiny import text

FAMILIES = sorted(module.name for module in iter_modules(tiny.__path__) if module.name != "text")
MAIN = ("audioflamingo3", "granite_speech", "qwen2_5_omni", "qwen2_audio", "voxtral")  # the others are slow
ALPHA, STEPS = 1.5, 8


def test_every_family_is_tested():
    ours = {module.name for module in iter_modules(families.__path__)} - {"caad_speech_lm"}
    assert set(FAMILIES) == ours
    for name in FAMILIES:
        assert import_module(f"{families.__name__}.{name}").FAMILY.model_type == name


@pytest.fixture(
    scope="session",
    params=[name if name in MAIN else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def made(request):
    """The tests' module of a family; skipped where its processor's packages are not installed."""
    for package in import_module(f"{families.__name__}.{request.param}").FAMILY.packages:
        pytest.importorskip(package, reason=f"{request.param} needs {package}")
    return import_module(f"{tiny.__name__}.{request.param}")


@pytest.fixture(scope="session")
def folder(made, tmp_path_factory) -> Path:
    """A model folder in the family's own layout; not to be changed."""
    return made.write(tmp_path_factory.mktemp(made.__name__.rpartition(".")[2]))


@pytest.fixture(scope="session")
def lm(folder):
    """The model, in evaluation; a test that changes it loads its own."""
    found = auto.load(folder)
    found.module.eval()
    return found


@pytest.fixture
def samples(lm):
    """Four samples of unequal length: of one clip, of as many as the family takes, and without any."""
    several = (1.3, 0.25, 0.4)[: lm.reader.most_audios or 3]
    return [
        sample("a", 0.5),
        sample("b", *several, question="Is it low?", answer="The tone is high."),
        sample("c", min(lm.reader.longest_seconds, 5.0), answer="It is"),
        sample("d", question="Is the tone low?", answer="low"),
    ]


@pytest.fixture
def parts(made, lm):
    """The model with what tests do with it."""

    def negative(name, batch, given, partners=None):
        return negatives.find(name)(batch, given, lm.reader, partners)

    def close(found, expected, near=NEAR) -> None:
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= near * expected.abs().max()

    return SimpleNamespace(
        lm=lm, model=lm.module, reader=lm.reader, batch=lm.reader.collate, negative=negative, close=close,
        hidden=lambda batch: lm.hidden(lm.prepare(batch)), asked=getattr(made, "asked", text.asked), cls=made.MODEL,
    )  # fmt: skip


def own_logits(lm, batch: Batch) -> torch.Tensor:
    """The logits of the family's own class [N, V] at the answer rows."""
    out = lm.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **lm.audio_inputs(batch))
    return out.logits.float().flatten(0, 1)[batch.answer_rows]


def test_the_head_gives_the_familys_own_logits(parts, folder, samples):
    """Those of its class as it is in transformers, times the factor that the family says the class leaves out."""
    own_class = parts.cls.from_pretrained(folder).eval()
    factor = (parts.reader.of.logits_factor or (lambda config: 1.0))(own_class.config)
    for pad in ("right", "left"):
        batch = parts.batch(samples, pad=pad)
        own = own_logits(parts.lm, batch)
        assert len(own) == len(batch.targets) > 8 and own.abs().max() > 0.01
        parts.close(parts.lm.head().logits(parts.hidden(batch)), own)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **parts.lm.audio_inputs(batch)}
        assert torch.equal(own, factor * own_class(**inputs).logits.flatten(0, 1)[batch.answer_rows])


def test_prompts_are_the_processors_own(parts, samples):
    """Ids, placeholders and audio inputs, for as many clips as the family takes, and for text alone."""
    for each in samples:
        question = each.record["messages"][0]["content"].rpartition("\n")[2]
        expected = parts.asked(parts.reader.processor, question, each.waveforms)
        batch = parts.batch([each], pad="left", with_answer=False)
        assert batch.input_ids.tolist() == expected["input_ids"].tolist()
        assert int(batch.audio_mask.sum()) == (batch.input_ids == parts.reader.prompts.placeholder).sum()
        found = parts.lm.audio_inputs(batch)
        assert bool(found) == bool(each.waveforms)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name].to(value.dtype))


def test_each_clip_reaches_the_states_behind_it(parts, samples):
    heard = parts.hidden(parts.batch(samples))
    number = parts.batch(samples).sample_of_row
    for place, clip in enumerate(samples[1].waveforms):
        other = replace(samples[1], waveforms=[*samples[1].waveforms])
        other.waveforms[place] = clip * torch.linspace(1, -1, len(clip)).numpy()
        changed = parts.hidden(parts.batch([samples[0], other, *samples[2:]]))
        assert (changed - heard)[number == 1].abs().max() > 1e-3
        parts.close(changed[number != 1], heard[number != 1])


@pytest.mark.parametrize("pad", ["right", "left"])
def test_padding_and_other_samples_change_nothing(parts, samples, pad):
    together = parts.batch(samples, pad=pad)
    assert (together.attention_mask == 0).any()
    apart = [parts.hidden(parts.batch([each], pad=pad)) for each in samples]
    parts.close(parts.hidden(together), torch.cat(apart))


@pytest.mark.parametrize("name", NEGATIVES)
def test_each_negative_is_what_the_familys_own_class_makes_of_it(parts, samples, name):
    """And both paths in one forward are each alone."""
    batch = parts.batch(samples)
    negative = parts.negative(name, batch, samples, partner)
    if name == "zero_mel":
        audio_inputs = {n: v * 0 if v.is_floating_point() else v for n, v in batch.audio.items()}
        expected = batch.with_audio(audio_inputs, batch.audio_index, batch.audio_positions)
    elif name == "text_only":
        expected = None
        for row, seen, labels in zip(negative.input_ids, negative.attention_mask, negative.labels, strict=True):
            assert not (row[seen.bool()] == parts.reader.prompts.placeholder).any()
            assert (labels != -100).any()
    else:
        changed = {
            "silence": lambda each, number, clip: clip * 0,
            "noise": lambda each, number, clip: noise(clip),
            "shuffled": lambda each, number, clip: partner(each, number),
        }[name]
        given = [
            replace(each, waveforms=[changed(each, number, clip) for number, clip in enumerate(each.waveforms)])
            for each in samples
        ]
        expected = parts.batch(given)
    second = parts.hidden(negative)
    if expected is None:
        parts.close(parts.lm.head().logits(second), own_logits(parts.lm, negative))
    else:
        parts.close(parts.lm.head().logits(second), own_logits(parts.lm, expected))
    heard, unheard = parts.hidden(Batch.cat([batch, negative])).chunk(2)
    parts.close(heard, parts.hidden(batch))
    parts.close(unheard, second)
    assert (heard - unheard)[batch.sample_of_row < 3].abs().max() > 1e-2
    parts.close(heard[batch.sample_of_row == 3], unheard[batch.sample_of_row == 3])


def noise(clip):
    """The noise of docs/method.md."""
    return (np.random.default_rng(0).standard_normal(len(clip)) * 0.1).astype(np.float32)


def partner(whose, number):
    """Audio of another length than that of any sample here."""
    return audio(f"partner of {whose.key} {number}", {"a": 1.7, "b": 0.9, "c": 0.6}[whose.key] + 0.1 * number)


@pytest.mark.parametrize("name", [None, "zero_mel", "text_only"])
def test_decoding_equals_a_loop_without_a_cache(parts, samples, name):
    batch = parts.batch(samples, pad="left", with_answer=False)
    negative = None if name is None else parts.negative(name, batch, samples)
    contrasted = None if name is None else Contrast(ALPHA, name)
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}
    found = generate(parts.lm, batch, contrasted=contrasted, negative=negative, **options)
    ends = {*end_tokens(parts.reader.tokenizer, parts.lm.stops), parts.reader.prompts.placeholder}
    tokens = torch.empty(len(samples), 0, dtype=torch.long)
    for _ in range(STEPS):
        z = following(parts, samples, None, tokens)
        if name is not None:
            z = (1 + ALPHA) * z - ALPHA * following(parts, samples, name, tokens)
        z[:, [*ends]] = -torch.inf
        tokens = torch.cat([tokens, z.argmax(-1, keepdim=True)], 1)
    assert found.tolist() == tokens.tolist()
    if name is not None:
        assert not torch.equal(generate(parts.lm, batch, **options), found)


def following(parts, samples, name, tokens) -> torch.Tensor:
    """Logits [B, V] of the token after these [B, T], each sample a forward of its own, unpadded."""
    rows = []
    for each, ids in zip(samples, tokens.tolist(), strict=True):
        batch = parts.batch([each], answers=[[*ids, 0]])
        if name is not None:
            batch = parts.negative(name, batch, [each])
        rows.append(parts.lm.head().logits(parts.hidden(batch))[-1])
    return torch.stack(rows)


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
    """The connector always; adapters on the decoder alone; nothing of the tower or of what neither hears nor writes."""
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
    lm = auto.load(folder)
    lm.add_adapters({"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": True})
    for name, parameter in lm.module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    lm.module.eval()
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
    lm = auto.load(folder)
    lm.add_adapters({"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": True})
    for name, parameter in lm.module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    lm.module.eval()
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
    """Random weights in fp32 around the processor of a folder; all of it trains, the tower too, but what is idle."""
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


def test_a_batch_without_audio_runs_the_tower(parts, samples):
    batch = parts.batch(samples[3:])
    ran = []
    with parts.lm.tower.register_forward_hook(lambda *_: ran.append(1)), torch.no_grad():
        hidden = parts.hidden(batch)
    assert ran == [1]
    parts.close(parts.lm.head().logits(hidden), own_logits(parts.lm, batch))


def changed(folder, tmp_path, name, change) -> Path:
    """A copy of the folder in which a JSON file's values are changed."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    values = json.loads((copy / name).read_text())
    change(values)
    (copy / name).write_text(json.dumps(values))
    return copy


def test_a_config_with_another_placeholder_is_refused(parts, folder, tmp_path):
    """Its forward would put audio nowhere, and not every family's tells."""

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


def test_more_audios_than_the_family_takes_are_refused(parts):
    if parts.reader.most_audios is None:
        return
    many = sample("many", *[0.5] * (parts.reader.most_audios + 1))
    told = f"^sample many: it has {len(many.waveforms)} audios, and a {parts.reader.family} model takes"
    for check in (parts.reader.check, lambda each: parts.batch([each])):
        with pytest.raises(UserError, match=told):
            check(many)


def test_audio_longer_than_the_family_takes_is_refused(parts):
    longest = parts.reader.longest_seconds
    parts.batch([sample("whole", longest)])
    with pytest.raises(UserError, match=r"^sample long: an audio of .* exceeds the model's window of"):
        parts.batch([sample("long", longest + 0.01)])


def test_the_bounds_hold(parts):
    """The end of the longest audio reaches its features, and the shortest has a position."""
    clip = audio("a", parts.reader.longest_seconds)
    other = clip.copy()
    other[-800:] = 0
    whole, changed = (parts.reader.features([each]).audio for each in (clip, other))
    assert any(not torch.equal(whole[name], changed[name]) for name in whole)
    [count] = parts.reader.features([audio("a", max(parts.reader.shortest_seconds, 1 / 16_000))]).positions
    assert count >= 1


def test_the_longest_audio_is_known_without_the_weights(parts, folder):
    """As `caad-ds prep ingest --for` asks for it."""
    assert window_seconds(folder) == parts.reader.longest_seconds


@pytest.mark.parametrize("share", [0.11, 0.37, 0.5, 0.731, 0.9999, 1.0])
def test_positions_are_bounded_by_the_length(parts, share):
    seconds = max(share * parts.reader.longest_seconds, parts.reader.shortest_seconds)
    [count] = parts.reader.features([audio("a", seconds)]).positions
    assert 1 <= count <= parts.reader.positions_of(seconds)


def test_windows_of_an_audio(parts):
    """An audio has as many rows as windows; those that only pad are no part of the forward's inputs."""
    if not parts.reader.of.windows:
        return
    clips = [audio("a", 0.5), audio("b", parts.reader.longest_seconds)]
    features = parts.reader.features(clips)
    counts = features.audio[WINDOWS].tolist()
    assert counts[0] == 1 and counts[1] > 1
    rows = parts.reader.inputs(features.audio)
    assert all(len(value) == sum(counts) for value in rows.values())
    alone = [parts.reader.inputs(parts.reader.features([clip]).audio) for clip in clips]
    for name, value in rows.items():
        torch.testing.assert_close(value, torch.cat([each[name] for each in alone]))
