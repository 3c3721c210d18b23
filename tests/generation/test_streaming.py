"""Pieces of an answer join to it, whatever its tokens are cut at; no thread outlives its reader."""

import threading

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from caad_ds.generation.streaming import Pieces, streamed
from tests.models.families.tiny import text

TEXTS = [
    "It is low.",
    "  Blanks before,  between , and after \n",
    "Ärger, 🙂 and 悲しい。 It 's a ' b ' c , n't .",
    "悲しい声です。",
    "\n\n",
    "",
]


@pytest.fixture(params=["bytes", "words", "pieces"])
def tokenizer(request):
    """One whose tokens are bytes, one that joins words with blanks and cleans them up, one of pieces of words."""
    if request.param == "bytes":
        return text.tokenizer(text.TURNS, text.template(""))
    words = {word: place for place, word in enumerate(sorted({w for each in TEXTS for w in each.split()}))}
    letters = sorted({letter for each in TEXTS for letter in each if not letter.isspace()})
    if request.param == "words":
        made = Tokenizer(models.WordLevel({**words, "?": len(words)}, unk_token="?"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        vocabulary = [*letters, *(f"##{letter}" for letter in letters), "[UNK]"]
        made = Tokenizer(models.WordPiece({each: n for n, each in enumerate(vocabulary)}, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        made.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=True)


@pytest.mark.parametrize("written", TEXTS)
def test_pieces_join_to_the_answer(tokenizer, written):
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    whole = tokenizer.decode(ids, skip_special_tokens=True).strip()

    def decode(streamer):
        streamer.put(torch.zeros(2, 5, dtype=torch.long))  # the prompt of two paths
        for one in ids:
            streamer.put(torch.tensor([one, 0]))
        streamer.end()
        return whole

    pieces = list(streamed(decode, tokenizer))
    assert "".join(pieces) == whole and "" not in pieces
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 2 or len(ids) < 4


def test_pieces_come_before_the_answer_is_whole():
    tokenizer = text.tokenizer(text.TURNS, text.template(""))
    given = []
    pieces = Pieces(tokenizer, given.append)
    for one in tokenizer("The tone is high and low.")["input_ids"]:
        pieces.put(torch.tensor([one]))
    assert "".join(given).startswith("The tone is high and l")


def test_an_answer_that_is_not_what_was_streamed_is_an_error():
    tokenizer = text.tokenizer(text.TURNS, text.template(""))

    def decode(streamer):
        for one in tokenizer("The tone is high.")["input_ids"]:
            streamer.put(torch.tensor([one]))
        return "another"

    with pytest.raises(RuntimeError, match="does not begin with what was streamed"):
        list(streamed(decode, tokenizer))


def test_a_failure_reaches_the_caller_and_ends_the_thread():
    tokenizer = text.tokenizer(text.TURNS, text.template(""))

    def decode(streamer):
        for one in tokenizer("The tone is high.")["input_ids"]:
            streamer.put(torch.tensor([one]))
        raise ArithmeticError("of the model")

    pieces = streamed(decode, tokenizer)
    assert next(pieces).startswith("T")
    with pytest.raises(ArithmeticError, match="of the model"):
        list(pieces)
    assert not answering()


def test_a_reader_that_leaves_stops_the_model():
    tokenizer = text.tokenizer(text.TURNS, text.template(""))
    ids = tokenizer("It is low.")["input_ids"]
    steps = []

    def decode(streamer):
        while len(steps) < 1_000_000:
            steps.append(1)
            streamer.put(torch.tensor([ids[len(steps) % len(ids)]]))

    pieces = streamed(decode, tokenizer)
    next(pieces)
    assert answering()
    pieces.close()
    assert not answering() and len(steps) < 1_000_000


def answering() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "caad-ds answer"]
