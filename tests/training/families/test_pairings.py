"""Teacher and student of different families: different prompts, one answer, the losses of plain PyTorch."""

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from caad_ds.config.reading import load_config
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill.pairing import Pairing
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import save
from caad_ds.training.engines import load_student, load_teacher
from tests.training.families import plain
from tests.training.families.qwen import foreign
from tests.training.families.test_equal_to_plain import assert_plain_losses
from tests.training.families.traces import watch_traces
from tests.training.launching import Run
from tests.training.tiny import amplify, config, encoder


def qwen2(world, hidden: int) -> dict:
    """The architecture of a small Qwen2 with the vocabulary of the tiny Qwen2-Audio."""
    text = json.loads((world / "qwen2_audio/config.json").read_text())["text_config"]
    kept = ("model_type", "vocab_size", "num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2}
    return {name: text[name] for name in kept} | sizes | {"tie_word_embeddings": True}


def to_speech_lm(world, out):
    """A config: Qwen2-Audio into our own model on a Qwen2."""
    student = {"llm": qwen2(world, 16), "tokenizer": str(world / "qwen2_audio")}
    return config(world, out, student=student, teacher={"path": str(world / "qwen2_audio")}, **STEPS)


def from_speech_lm(world, out):
    """A config: our own model on a Qwen2 into Qwen2-Audio."""
    tokenizer = AutoTokenizer.from_pretrained(world / "qwen2_audio")
    speech_encoder = encoder()
    teacher = build(qwen2(world, 32), speech_encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2)
    for part in (teacher.connector, teacher.llm.model):
        amplify(part)
    folder = out.parent / "teacher"
    save(folder, teacher, speech_encoder, tokenizer)
    return foreign(world, out, "all", teacher={"path": str(folder)}, **STEPS)


STEPS = {"optimizer": {"steps": 6, "micro_batch": 2, "lr": 5e-3}}


@pytest.mark.numeric
@pytest.mark.parametrize("made", [to_speech_lm, pytest.param(from_speech_lm, marks=pytest.mark.slow)])
def test_families_that_differ_train_as_in_plain_pytorch(audio_world, tmp_path, made):
    file = made(audio_world, tmp_path / "out")
    run = Run(file, 2, prepare=watch_traces)
    assert run.wait() == [0, 0], run.output()
    assert "vocabulary: 309 tokens in common, of 309 and 309 rows" in run.output()
    found = assert_plain_losses(file, tmp_path / "out")
    assert found[-1] < found[0] - 0.1, found


def test_prompts_are_each_familys_own_and_the_answer_is_one(audio_world, tmp_path):
    cfg = load_config(to_speech_lm(audio_world, tmp_path / "out"))
    student, teacher = load_student(cfg), load_teacher(cfg)
    samples = IndexedReader(cfg.data.train)
    batch = Pairing(student.reader, teacher.reader)([samples[0], samples[1]])
    assert batch.student.input_ids.shape[1] != batch.teacher.input_ids.shape[1]
    assert batch.student.targets.tolist() == batch.teacher.targets.tolist()
    assert "beep" in student.reader.tokenizer.decode(batch.student.input_ids[0])
    assert "beep" not in teacher.reader.tokenizer.decode(batch.teacher.input_ids[0])


@pytest.mark.numeric
def test_tokens_that_are_others_to_the_teacher_are_no_part_of_the_loss(audio_world, tmp_path, monkeypatch):
    """They lie in the middle, so that rows of both heads are chosen; the student's trains, and ZeRO-3 partitions it."""
    student = shutil.copytree(audio_world / "narrow", tmp_path / "student")
    file = student / "tokenizer.json"
    made = json.loads(file.read_text())
    vocabulary = made["model"]["vocab"]
    first, second = "\u0121", "\u0122"  # stand for bytes that no text here has
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(made))
    unlike = torch.tensor([vocabulary[first], vocabulary[second]])
    of_all = plain.logits
    monkeypatch.setattr(plain, "logits", lambda *given: of_all(*given).index_fill(1, unlike, -1e9))
    run_file = foreign(audio_world, tmp_path / "out", "all", student={"path": str(student)}, optimizer={"steps": 4})
    run = Run(run_file, 2, prepare=watch_traces)
    assert run.wait() == [0, 0], run.output()
    assert "vocabulary: 307 tokens in common, of 309 and 309 rows" in run.output()
    assert_plain_losses(run_file, tmp_path / "out")
