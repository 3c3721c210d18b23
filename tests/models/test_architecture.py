"""Architectures in JSON files: students and encoders with random weights, and the paper's shapes."""

import json
from itertools import pairwise

import pytest
import torch

from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.encoder_folder import load_encoder
from caad_ds.models.speech_lm.folder import load
from caad_ds.training.engines import load_student
from caad_ds.utils.errors import UserError
from tests.models.small import sample
from tests.root import ROOT
from tests.training.tiny import llama

PAPER = ROOT / "configs" / "paper"
WHISPER = {
    "model_type": "whisper", "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
    "num_mel_bins": 80, "max_source_positions": 100,
}  # fmt: skip


@pytest.fixture
def files(tokenizer, tmp_path):
    """`llm.json`, `whisper.json` and `tokenizer/`; the LLM's weights are published in bf16."""
    (tmp_path / "llm.json").write_text(json.dumps(llama(2, len(tokenizer)) | {"torch_dtype": "bfloat16"}))
    (tmp_path / "whisper.json").write_text(json.dumps(WHISPER))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def student(files, **changes) -> Config:
    """A configuration whose student is made of the files."""
    section = {
        "llm": str(files / "llm.json"), "encoder": str(files / "whisper.json"), "tokenizer": str(files / "tokenizer"),
        "taps": [0, 1], "window_seconds": 1, "num_queries": 4, "qformer_heads": 2,
    }  # fmt: skip
    return Config.model_validate({
        "run": {"output_dir": "out"}, "data": {"train": "shards"}, "objective": {"name": "ce"},
        "optimizer": {"steps": 1}, "student": section | changes,
    })  # fmt: skip


def test_a_student_of_two_files_is_random_seeded_and_saved_whole(files):
    made, again = load_student(student(files)), load_student(student(files))
    weights = made.module.state_dict()
    assert all(torch.equal(value, again.module.state_dict()[name]) for name, value in weights.items())
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert made.encoder.window_seconds == 1
    made.save(files / "out")
    model, speech_encoder, _ = load(files / "out")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())
    features = speech_encoder.features(sample("a").waveforms)
    assert torch.equal(speech_encoder.encode(features).hidden, made.encoder.encode(features).hidden)


def test_a_student_has_the_form_that_was_asked_for(files):
    made = {form: load_student(student(files, connector=form)) for form in ("blip2", "desta")}
    assert {form: part.module.config.connector for form, part in made.items()} == {"blip2": "blip2", "desta": "desta"}
    assert made["blip2"].encoder.final_norm and not made["desta"].encoder.final_norm


def test_an_architecture_can_be_cut(files):
    assert len(load_student(student(files, keep_layers=1)).module.llm.model.layers) == 1
    with pytest.raises(UserError, match="keep_layers 3 exceeds its 2 layers"):
        load_student(student(files, keep_layers=3))


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("llm", None, "no such architecture file"),
        ("llm", "{", "line 1: not valid JSON"),
        ("llm", "[]", "no model_type in it"),
        ("llm", '{"vocab_size": 5}', "no model_type in it"),
        ("llm", '{"model_type": "lama"}', "no model can be built"),
        ("encoder", None, "no such architecture file"),
        ("encoder", "", "line 1: not valid JSON"),
        ("encoder", '{"d_model": 32}', "no model_type in it"),
        ("encoder", '{"model_type": "llama"}', "its model_type is llama; an encoder's must be whisper"),
        ("encoder", json.dumps(WHISPER | {"d_model": "wide"}), "no encoder can be built of it"),
        ("encoder", json.dumps(WHISPER | {"max_source_positions": 10}), "window of 1 s exceeds the encoder's 0 s"),
    ],
)
def test_a_file_that_is_no_architecture_is_named(files, key, text, message):
    file = files / "mine.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_student(student(files, **{key: str(file)}))
    assert "\n" not in str(caught.value)


def test_an_architecture_has_no_tokenizer(files):
    with pytest.raises(UserError, match=r"student\.tokenizer is missing"):
        load_student(student(files, tokenizer=None))


@pytest.mark.parametrize(
    "file", sorted({*PAPER.glob("*.yaml")} - {PAPER / "instructions.yaml"}), ids=lambda file: file.stem
)
def test_the_papers_configs_load(file):
    cfg = load_config(file)
    assert cfg.run.name == file.stem and cfg.run.output_dir.name == file.stem
    assert (cfg.student.train, cfg.student.connector) == ("connector", "desta")
    assert cfg.run.precision == "bf16" and cfg.optimizer.epochs == 10


def test_standard_kd_differs_in_its_alpha_alone():
    caad, plain = (load_config(PAPER / f"{name}.yaml").model_dump(exclude={"run"}) for name in ("caad", "std_kd"))
    assert (caad["objective"].pop("alpha"), plain["objective"].pop("alpha")) == (1.0, 0.0)
    assert caad == plain


@pytest.mark.parametrize(
    ("llm", "form", "body", "connector"),
    [
        ("Llama-3.2-3B-Instruct", "blip2", 3_212_749_824, 37_008_640),
        ("Llama-3.2-3B-Instruct", "desta", 3_212_749_824, 32_810_240),  # the paper's 32 M
        ("Llama-3.2-1B-Instruct", "desta", 1_235_814_400, 31_760_640),
        ("Llama-3.1-8B-Instruct", "desta", 8_030_261_248, 33_859_840),
        ("Meta-Llama-3-8B-Instruct", "desta", 8_030_261_248, 33_859_840),
    ],
)
def test_the_papers_models_have_their_size(llm, form, body, connector):
    section = load_config(PAPER / "caad.yaml").student
    architectures = PAPER / "architectures"
    with torch.device("meta"):
        speech_encoder = load_encoder(architectures / "whisper-medium.json", section.taps, section.window_seconds)
        model = build(
            str(architectures / f"{llm}.json"), speech_encoder, None, num_queries=section.num_queries,
            qformer_layers=section.qformer_layers, qformer_heads=section.qformer_heads, connector=form,
        )  # fmt: skip
    counted = [sum(p.numel() for p in part.parameters()) for part in (speech_encoder, model.llm, model.connector)]
    assert counted == [307_216_384, body, connector]
    rope = model.config.llm_config.rope_parameters
    assert (rope["rope_theta"], rope.get("factor")) == (500_000.0, {"3.1": 8.0, "3.2": 32.0}.get(llm[6:9]))


def documented() -> list[list[str]]:
    """The training commands in the README of the paper's configs, split into words."""
    text = (PAPER / "README.md").read_text().replace("\\\n", " ")
    lines = [line.partition("  #")[0].split() for line in text.splitlines() if line.startswith("    ")]
    return [words for words in lines if any("configs/paper/" in word and word.endswith(".yaml") for word in words)]


@pytest.mark.parametrize("words", documented(), ids=" ".join)
def test_the_documented_commands_are_right(words):
    file = next(word.rpartition("=")[2] for word in words if word.endswith(".yaml"))
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    cfg = load_config(ROOT / file, overrides)
    assert not overrides or cfg != load_config(ROOT / file)
    assert cfg.student.deepspeed in {path.name for path in (ROOT / "ds_configs").iterdir()}
    assert cfg.teacher is None or cfg.teacher.deepspeed is None
    if cfg.student.llm.endswith(".json"):
        assert (ROOT / cfg.student.llm).is_file() and (ROOT / cfg.student.encoder).is_file()


def test_every_run_has_an_output_of_its_own():
    training = [words for words in documented() if "sbatch" in words and "--set" in words]
    outputs = [value for words in training for value in words if value.startswith("run.output_dir=")]
    assert len(outputs) == len(training) == len(set(outputs)) == 5
