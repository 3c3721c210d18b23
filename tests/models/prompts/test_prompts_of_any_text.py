"""For any text in transcript, metadata, question, hint, system prompt and answer, control tokens are the template's
alone, or the record is refused by name; ids are those of the whole text."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caad_ds.data.audio_markers import MARKERS, user_content
from caad_ds.models.prompts.chat_template import freeze_template
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.utils.errors import UserError
from tests.models.prompts.chat_tokenizers import KINDS

QUERIES = 2
FULLWIDTH = str.maketrans("<>|/", "＜＞｜／")
PLAIN = st.text("abcdeéß 漢字,.?!\U0001f600'-", max_size=12)


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    made = KINDS[request.param](tmp_path_factory.mktemp("tokenizer"))
    return made, PromptEncoder(freeze_template(made.tokenizer), QUERIES)


def texts(kind):
    """Texts around a tokenizer's control tokens: whole, halved, in another width, and what else may be in a file."""
    tokens = [*kind.control, *kind.marks, *MARKERS, "</s>", "<|im_end|>", "[INST]", "<unk>"]
    odd = [
        " ",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "\u00a0",
        "\u200b",
        "\ufeff",
        "▁",
        "<0x0A>",
        "e\u0301",
        "ﬁ",
        "\ud83d",
        "\U0001f600",
    ]
    pieces = st.sampled_from(tokens) | st.sampled_from(tokens).map(lambda token: token[: len(token) // 2])
    pieces |= st.sampled_from(tokens).map(lambda token: token[len(token) // 2 :])
    pieces |= st.sampled_from(tokens).map(lambda token: token.translate(FULLWIDTH)) | st.sampled_from(odd)
    return st.lists(PLAIN | pieces | st.text(max_size=4), max_size=4).map("".join)


def record(transcript, metadata, question, hint, system, answer):
    first = [] if system is None else [{"role": "system", "content": system}]
    content = user_content(f"{question} ({metadata})", hint)
    return {
        "id": "r-1", "audios": [{"text": transcript}], "messages": [*first, {"role": "user", "content": content}],
        "response": answer,
    }  # fmt: skip


def controls(kind, ids):
    return [token for token in kind.tokenizer.convert_ids_to_tokens(ids) if token in kind.control]


def check(kind, prompt_encoder, parts):
    asked, plain = record(*parts), record(*("a" if part is not None else None for part in parts))
    try:
        encoded = prompt_encoder.encode(asked)
    except UserError as error:
        assert str(error).startswith("record r-1: ") and "\n" not in str(error)
        return False
    expected = prompt_encoder.encode(plain)
    for ids, others in ((encoded, expected), (expected, expected)):
        prompt = [number for number, is_audio in zip(ids.prompt, ids.is_audio, strict=True) if not is_audio]
        theirs = [number for number, is_audio in zip(others.prompt, others.is_audio, strict=True) if not is_audio]
        assert controls(kind, prompt) == controls(kind, theirs)
        assert sum(ids.is_audio) == QUERIES and controls(kind, ids.answer) == controls(kind, [prompt_encoder.turn.end])
    whole_text(kind, prompt_encoder, asked)
    return True


def whole_text(kind, prompt_encoder, asked):
    """Without audio, prompt and answer are the ids of one text, or at least tokens of that same text."""
    silent = {**asked, "audios": [], "messages": [dict(turn) for turn in asked["messages"]]}
    silent["messages"][-1]["content"] = asked["messages"][-1]["content"].replace(user_content(""), "")
    encoded, tokenizer = prompt_encoder.encode(silent), kind.tokenizer
    text = tokenizer.apply_chat_template(silent["messages"], tokenize=False, add_generation_prompt=True)
    answer = silent["response"].strip() if prompt_encoder.turn.trims else silent["response"]
    ids = encoded.prompt + encoded.answer[:-1]
    assert encoded.prompt == tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text + answer, add_special_tokens=False)["input_ids"]
    assert ids == whole or tokenizer.decode(ids) == tokenizer.decode(whole)
    assert ids == whole or whole[: len(encoded.prompt)] != encoded.prompt


def each(strategy):
    return st.tuples(strategy, strategy, strategy, st.none() | strategy, st.none() | strategy, strategy)


def run(kind, examples):
    made, prompt_encoder = kind
    quiet = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    taken = []

    @quiet
    @given(each(texts(made)))
    def any_texts(parts):
        taken.append(check(made, prompt_encoder, parts))

    @quiet
    @given(each(PLAIN))
    def plain_texts(parts):
        assert check(made, prompt_encoder, parts)  # nothing in it is control: it must not be refused

    any_texts()
    plain_texts()
    assert 0 < sum(taken) < len(taken)


def test_control_tokens_are_the_templates_alone(kind):
    run(kind, 40)


@pytest.mark.slow
def test_control_tokens_are_the_templates_alone_in_many_texts(kind):
    run(kind, 1000)


@pytest.mark.parametrize("where", range(6), ids=["transcript", "metadata", "question", "hint", "system", "answer"])
def test_every_control_token_is_refused_in_every_text(kind, where):
    made, prompt_encoder = kind
    for token in (*made.control, *made.marks, *MARKERS):
        for text in (token, f"he said{token}stop", f"{token} yes", f"no {token}"):
            parts = ["a", "b", "c", "d", "e", "f"]
            parts[where] = text
            with pytest.raises(UserError, match=r"^record r-1: "):
                prompt_encoder.encode(record(*parts))
