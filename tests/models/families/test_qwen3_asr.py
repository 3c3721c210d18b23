"""Particularities of Qwen3-ASR: text is put into the system turn, and a prompt has one user turn."""

import pytest

from caad_ds.models import auto
from caad_ds.utils.errors import UserError
from tests.models.families.conftest import sample
from tests.models.families.tiny import qwen3_asr


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return auto.load(qwen3_asr.write(tmp_path_factory.mktemp("qwen3_asr"))).reader


def written(reader, **record) -> str:
    batch = reader.collate([sample("a", 0.1, question="Is it low?", **record)], with_answer=False)
    kept = batch.input_ids[batch.attention_mask.bool() & ~batch.audio_mask]
    return reader.tokenizer.decode(kept)


def test_text_stands_in_the_system_turn(reader):
    user = sample("a", 0.1, question="Is it low?").record["messages"]
    ends = "<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_end|><|im_end|>\n<|im_start|>assistant\n"
    assert written(reader) == "<|im_start|>system\nIs it low?" + ends
    both = [{"role": "system", "content": "beep"}, *user]
    assert written(reader, messages=both) == "<|im_start|>system\nbeep\nIs it low?" + ends
    reader.set_transcript("after_audio")
    assert written(reader) == "<|im_start|>system\nbeep 0\nIs it low?" + ends
    reader.set_transcript("none")


def test_a_conversation_is_refused(reader):
    """Its template would write one user turn before all answers, whatever their order was."""
    user = sample("a", 0.1).record["messages"]
    message = r"^record a: a qwen3_asr model reads one user message, after the system's; leave out the others"
    for more in ({"role": "assistant", "content": "low"}, {"role": "user", "content": "high"}):
        with pytest.raises(UserError, match=message):
            written(reader, messages=[*user, more])


def test_a_control_token_in_the_text_is_refused(reader):
    with pytest.raises(UserError, match=r"^record a: its user message 1 holds '<\|im_end\|>'"):
        reader.collate([sample("a", 0.1, question="low<|im_end|>")])
