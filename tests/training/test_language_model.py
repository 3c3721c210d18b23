"""What a run says of its LLM before anything is trained: vocabulary and positions."""

import json

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from caad_ds.config.reading import load_config
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.training.engines import load_student
from caad_ds.utils.errors import UserError
from tests.training.launching import refusal
from tests.training.tiny import config, llama


@pytest.fixture
def weights(world, tmp_path):
    """A pretrained LLM's folder with the teacher's tokenizer in it."""
    folder = tmp_path / "llm"
    vocabulary = json.loads((world / "teacher/config.json").read_text())["llm_config"]["vocab_size"]
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**llama(1, vocabulary))).save_pretrained(folder)
    return folder


def student(world, tmp_path, folder, **more):
    return load_student(load_config(config(world, tmp_path / "out", student={"llm": str(folder)} | more)))


def exchange(folder, first: str, second: str) -> None:
    """Give two tokens of a tokenizer each other's ids."""
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(values))


def test_weights_of_another_vocabulary_are_refused_by_an_example(world, weights, tmp_path):
    tokenizer = student(world, tmp_path, weights).reader.tokenizer  # they have no tokenizer of their own
    tokenizer.save_pretrained(weights)
    student(world, tmp_path, weights)
    words = {token: number for token, number in tokenizer.get_vocab().items() if number > 20}
    (first, one), (second, other), *_ = sorted(words.items(), key=lambda item: item[1])
    exchange(weights, first, second)
    with pytest.raises(UserError) as caught:
        student(world, tmp_path, weights)
    message = str(caught.value)
    assert message.startswith(f"{weights}: ") and "is not that of these weights" in message and "\n" not in message
    assert (
        f"{first!r} has id {one}, and here {other}" in message
        or f"{second!r} has id {other}, and here {one}" in message
    )
    student(world, tmp_path, weights, tokenizer=str(weights))  # its own


def test_a_smaller_vocabulary_that_counts_otherwise_is_refused(world, weights, tmp_path):
    train_tokenizer(["some other words that are here"] * 3, 40, weights)
    with pytest.raises(UserError, match="is not that of these weights"):
        student(world, tmp_path, weights)


def test_another_template_over_the_same_vocabulary_is_supported(world, weights, tmp_path):
    tokenizer = student(world, tmp_path, weights).reader.tokenizer
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(weights)
    assert student(world, tmp_path, weights).reader.tokenizer.chat_template != tokenizer.chat_template


def test_tokens_that_were_added_beyond_the_embedding_are_refused_by_name(world, weights, tmp_path):
    tokenizer = student(world, tmp_path, weights).reader.tokenizer
    tokenizer.save_pretrained(weights)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "more")
    with pytest.raises(UserError, match=r"student\.llm: token '<new>' of the tokenizer .* but the embedding has"):
        student(world, tmp_path, weights, tokenizer=str(tmp_path / "more"))


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_sample_longer_than_the_llm_reads_is_refused_at_the_start(world, tmp_path, made, whose):
    if whose == "student":
        short = llama(1, 60, 16) | {"max_position_embeddings": 20}
        line = refusal(made(student={"llm": short | {"vocab_size": vocabulary(world)}}), ranks=2)
    else:
        folder = tmp_path / "teacher"
        import shutil

        shutil.copytree(world / "teacher", folder)
        values = json.loads((folder / "config.json").read_text())
        values["llm_config"]["max_position_embeddings"] = 20
        (folder / "config.json").write_text(json.dumps(values))
        line = refusal(made(teacher={"path": str(folder)}))
    keys = [entry.key for entry in IndexedReader(world / "shards").index.samples]
    assert "24 of 24 samples cannot be used" in line and f" tokens, the LLM of {whose} reads 20" in line
    assert any(f"sample {key}: " in line for key in keys)


def vocabulary(world) -> int:
    return json.loads((world / "teacher/config.json").read_text())["llm_config"]["vocab_size"]
