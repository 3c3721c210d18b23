"""For any text in system prompt, question, hint, transcript and answer, control tokens are those of an audio LLM's
template, or the sample is refused by name; ids are those of its own processor."""

import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caad_ds.data.audio_markers import MARKERS, user_content
from caad_ds.models.families.qwen2_audio import FAMILY
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.utils.errors import UserError
from tests.models.families.conftest import audio
from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio
from tests.models.prompts.chat_tokenizers import Kind
from tests.models.prompts.test_prompts_of_any_text import FULLWIDTH, PLAIN, texts

CONTROL = tiny_qwen2_audio.SPECIAL
KIND = Kind(None, tuple(CONTROL))


@pytest.fixture(scope="module", params=["none", "after_audio"])
def reader(request):
    made = tiny_qwen2_audio.processor()
    found = ProcessorReader(made, FAMILY)
    found.set_transcript(request.param)
    return found


def record(system, question, hint, transcript, answer):
    first = [] if system is None else [{"role": "system", "content": system}]
    return {
        "id": "r-1", "audios": [{"path": "", "text": transcript}], "response": answer,
        "messages": [*first, {"role": "user", "content": user_content(question, hint)}],
    }  # fmt: skip


def own_text(reader, system, question, hint, transcript, answer):
    """The prompt as the processor's template writes it."""
    text = question if hint is None else f"{hint} {question}"
    if reader.transcript == "after_audio" and transcript:
        text = f"{transcript}\n{text}"
    first = [] if system is None else [{"role": "system", "content": system}]
    user = {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": text}]}
    return reader.processor.apply_chat_template([*first, user], tokenize=False, add_generation_prompt=True)


CLIP = audio("clip", 0.4)


def controls(reader, ids):
    return [token for token in reader.tokenizer.convert_ids_to_tokens(ids) if token in CONTROL]


def check(reader, parts):
    """Return whether a record is accepted; an accepted one decodes to exactly its texts."""
    try:
        encoded = reader.prompts.encode(record(*parts), positions=[10])
    except UserError as error:
        assert str(error).startswith("record r-1: ") and "\n" not in str(error)
        return False
    text = own_text(reader, *parts)
    own = reader.processor(text=text, audio=[CLIP], sampling_rate=16_000)["input_ids"][0]
    assert encoded.prompt == own
    plain = reader.prompts.encode(record(*("a" if part is not None else None for part in parts)), positions=[10])
    assert controls(reader, encoded.prompt) == controls(reader, plain.prompt)
    assert sum(encoded.is_audio) == own.count(reader.prompts.placeholder) == 10
    assert controls(reader, encoded.answer) == ["<|im_end|>"]
    said = reader.tokenizer.decode(encoded.prompt + encoded.answer)
    whole = text.replace("<|AUDIO|>", "<|AUDIO|>" * 10) + parts[-1] + "<|im_end|>"
    assert said == whole or said == unicodedata.normalize("NFC", whole)
    return True


def run(reader, examples):
    quiet = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    taken = []

    def each(strategy):
        return st.tuples(st.none() | strategy, strategy, st.none() | strategy, strategy, strategy)

    @quiet
    @given(each(texts(KIND)))
    def any_texts(parts):
        taken.append(check(reader, parts))

    @quiet
    @given(each(PLAIN))
    def plain_texts(parts):
        assert check(reader, parts)  # nothing in it is control: it must not be refused

    any_texts()
    plain_texts()
    assert 0 < sum(taken) < len(taken)


def test_control_tokens_are_the_templates_alone(reader):
    run(reader, 60)


@pytest.mark.slow
def test_control_tokens_are_the_templates_alone_in_many_texts(reader):
    run(reader, 2000)


@pytest.mark.parametrize("where", range(5), ids=["system", "question", "hint", "transcript", "answer"])
def test_every_control_token_is_refused_in_every_text(reader, where):
    if where == 3 and reader.transcript == "none":
        return  # it stands nowhere
    for token in (*CONTROL, *MARKERS):
        for text in (token, f"he said{token}stop", f"{token} yes", f"no {token}"):
            parts = ["a", "b", "c", "d", "e"]
            parts[where] = text
            with pytest.raises(UserError, match=r"^record r-1: "):
                reader.prompts.encode(record(*parts), positions=[10])


def test_halves_and_other_widths_of_control_tokens_are_text(reader):
    for token in CONTROL:
        for text in (token[1:], token[:-1], token.translate(FULLWIDTH), f"{token[:3]} {token[3:]}", token.lower()):
            if text in CONTROL:
                continue
            for where in range(5):
                parts = ["a", "b", "c", "d", "e"]
                parts[where] = text
                assert check(reader, parts)
