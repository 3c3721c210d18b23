"""What cannot be distilled is refused in one line that names both sides, on two ranks, before a step is done."""

import json
import shutil
from dataclasses import replace

import pytest

from caad_ds.data.shard_reader import IndexedReader
from caad_ds.models import auto
from caad_ds.utils.errors import UserError
from data_prep.pack import pack
from tests.command import run_command
from tests.training.families.qwen import foreign
from tests.training.launching import refusal
from tests.training.tiny import records


@pytest.fixture
def refused(audio_world, tmp_path):
    """The line that a run on two ranks is refused with; nothing of it is left but its log."""

    def run(**changes: dict) -> str:
        line = refusal(foreign(audio_world, tmp_path / "out", **changes), ranks=2)
        assert not (tmp_path / "out/checkpoints").exists()
        return line

    return run


def test_other_vocabularies_of_answers(refused, audio_world):
    line = refused(teacher={"path": str(audio_world / "teacher")})
    assert f"teacher {audio_world / 'teacher'} and student {audio_world / 'narrow'} have different vocab" in line


def test_other_ends_of_answers(refused, audio_world, tmp_path):
    other = shutil.copytree(audio_world / "narrow", tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", "<|endoftext|>"))
    line = refused(student={"path": str(other)})
    assert f"teacher {audio_world / 'qwen2_audio'} and student {other} end an answer differently" in line
    assert "'<|im_end|>' (" in line and "'<|endoftext|>' (" in line


def test_a_kept_prefix(refused, audio_world):
    line = refused(teacher={"keep_prefix": True, "placement": "replicated", "deepspeed": None})
    assert "teacher.keep_prefix: not for models of type qwen2_audio" in line


def test_a_control_token_of_the_processor_in_an_answer(refused, tmp_path):
    rows = records(tmp_path, 8)
    rows[5]["response"] = "It is <|audio_bos|> high."
    manifest = tmp_path / "answered.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_command(pack, "--manifest", manifest, "--out", tmp_path / "shards") == 0
    line = refused(data={"train": str(tmp_path / "shards")})
    assert "1 of 8 samples cannot be used" in line and "clip-05" in line and "<|audio_bos|>" in line


def test_the_placeholder_in_an_answer(audio_world):
    """Which packing refuses as well, since it is our own marker."""
    sample = IndexedReader(audio_world / "shards")[0]
    record = {**sample.record, "response": "It is <|AUDIO|> high."}
    with pytest.raises(UserError, match=r"clip-00.*<\|AUDIO\|>"):
        auto.load(audio_world / "narrow").reader.check(replace(sample, record=record))


def test_kept_states_of_an_encoder_in_the_engine(refused):
    line = refused(student={"keep_encoded_gb": 1.0})
    assert "student.keep_encoded_gb: the encoder of a qwen2_audio lies in the student's engine" in line
