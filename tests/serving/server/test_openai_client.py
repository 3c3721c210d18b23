"""OpenAI's own client gets the answers of `Model.answer`, alone and with concurrent requests."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest

import caad_ds
from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio
from tests.serving.server.conftest import NAME, asking, file_of, running, user, written

QUESTION = "who speaks ?"
ONE, TWO = file_of("one"), file_of("two", 0.3)
# What a request says, and the same in words of `Model.answer`.
WAYS = {
    "greedy": ({}, {}),
    "a temperature of 0": ({"temperature": 0, "seed": 3}, {}),
    "a temperature near 0": ({"temperature": 1e-6, "seed": 3}, {}),
    "sampled": (
        {"temperature": 1.5, "top_p": 0.9, "seed": 5, "extra_body": {"top_k": 20}},
        {"temperature": 1.5, "top_p": 0.9, "top_k": 20, "seed": 5},
    ),
    "another seed": ({"temperature": 1.5, "seed": 6}, {"temperature": 1.5, "seed": 6}),
    "contrast": (
        {"extra_body": {"caad_alpha": 1.5, "caad_negative": "silence", "caad_plausibility": 0.01}},
        {"contrast_alpha": 1.5, "negative": "silence", "plausibility": 0.01},
    ),
    "contrast with a gate": (
        {"extra_body": {"caad_alpha": 2.0, "caad_alpha_gate": "text_certainty", "caad_gate_m": 30.0}},
        {"contrast_alpha": 2.0, "alpha_gate": "text_certainty", "gate_m": 30.0},
    ),
    "contrast, sampled": (
        {"temperature": 1.2, "seed": 1, "extra_body": {"caad_alpha": 1.0}},
        {"temperature": 1.2, "seed": 1, "contrast_alpha": 1.0},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def client(served):
    return served.client()


def text(completion) -> str:
    return completion.choices[0].message.content


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("files", [[ONE], [ONE, TWO]], ids=["one clip", "two clips"])
def test_an_answer_is_that_of_the_model(model, client, files, way):
    asked, same = WAYS[way]
    expected = model.answer(files, QUESTION, max_new_tokens=12, **same)
    assert expected
    assert text(client.chat.completions.create(**asking(QUESTION, *files, max_tokens=12, **asked))) == expected


def test_answers_without_audio_and_with_transcripts(model, client):
    plain = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": QUESTION}])
    assert text(plain) == model.answer([], QUESTION, max_new_tokens=8)
    given = {"caad_transcripts": ["hello", ""]}
    said = text(client.chat.completions.create(**asking(QUESTION, ONE, TWO, extra_body=given)))
    assert said == model.answer([ONE, TWO], QUESTION, ["hello", ""], max_new_tokens=8)
    assert said != model.answer([ONE, TWO], QUESTION, max_new_tokens=8)


def test_text_before_the_audio_and_a_length_by_its_other_name(model, client):
    turn = user(QUESTION, ONE)
    turn["content"].reverse()
    said = client.chat.completions.create(model=NAME, messages=[turn], max_completion_tokens=3)
    assert text(said) == model.answer(ONE, QUESTION, max_new_tokens=3)


@pytest.mark.parametrize("way", WAYS)
def test_pieces_join_to_the_answer(model, client, way):
    asked, same = WAYS[way]
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 12}
    *chunks, last = client.chat.completions.create(**asking(QUESTION, ONE, **asked, **options))
    expected = model.answer(ONE, QUESTION, max_new_tokens=12, **same)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == expected and len(pieces) > 3
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason in ("stop", "length")
    whole = client.chat.completions.create(**asking(QUESTION, ONE, **asked, max_tokens=12))
    assert not last.choices and last.usage == whole.usage


def test_usage_and_the_reason_of_the_end_are_true(model, client):
    tokens = {}
    for length in range(1, 9):
        done = client.chat.completions.create(**asking("is it quiet ?", ONE, max_tokens=length))
        tokens[length] = done.usage.completion_tokens, done.choices[0].finish_reason
        assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert tokens[1] == (1, "length")
    longer = client.chat.completions.create(**asking("is it quiet ?", ONE, ONE, max_tokens=1))
    positions = longer.usage.prompt_tokens - done.usage.prompt_tokens
    assert positions == 3 + 6  # the audio's, and `<start_audio>`, `<end_audio>` by the words of this tokenizer


def test_an_answer_that_ends_says_so(model, client):
    def drawn(seed, length):
        return client.chat.completions.create(**asking(QUESTION, ONE, max_tokens=length, temperature=2, seed=seed))

    answers = {seed: drawn(seed, 40) for seed in range(8)}
    ended = {seed: done for seed, done in answers.items() if done.choices[0].finish_reason == "stop"}
    assert 0 < len(ended) < len(answers)
    assert all(answers[seed].usage.completion_tokens == 40 for seed in answers.keys() - ended.keys())
    for seed, done in ended.items():
        length = done.usage.completion_tokens
        assert length < 40 and text(done) == model.answer(ONE, QUESTION, max_new_tokens=40, temperature=2.0, seed=seed)
        short = drawn(seed, length - 1)
        assert short.choices[0].finish_reason == "length" and text(short) == text(
            done
        )  # the end token alone is missing


def test_earlier_turns_and_a_system_text_are_in_the_prompt(client):
    last = user(QUESTION, ONE)
    before = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "it rains"}]
    system = [{"role": "system", "content": "loud"}]
    lengths = [
        client.chat.completions.create(model=NAME, messages=[*turns, last]).usage.prompt_tokens
        for turns in ([], before, system)
    ]
    assert [each - lengths[0] for each in lengths] == [0, 5, 2]


def test_doubtful_audio_is_reported_beside_its_answer(client):
    silent = written(np.zeros(8000, np.float32))
    warnings = ["clip 2: silent: all its samples are alike, but for rounding or dither"]
    assert client.chat.completions.create(**asking(QUESTION, ONE, silent)).caad == {"warnings": warnings}
    first, *more = client.chat.completions.create(**asking(QUESTION, ONE, silent), stream=True)
    assert first.caad == {"warnings": warnings} and more and not any(each.model_extra for each in more)
    assert not client.chat.completions.create(**asking(QUESTION, ONE)).model_extra


def test_characters_that_the_tokenizer_does_not_know_are_reported(client):
    [warning] = client.chat.completions.create(**asking("who sings ?", ONE)).caad["warnings"]
    assert warning.startswith("messages: this model's tokenizer does not know 'sing'")


def test_a_reply_is_sent_back_as_the_client_read_it(client):
    first = [user(QUESTION, ONE)]
    said = client.chat.completions.create(model=NAME, messages=first).choices[0].message
    plain = {"role": "assistant", "content": said.content}
    empty = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "tool_calls", "name", "of_later"))
    prompts = [
        client.chat.completions.create(model=NAME, messages=[*first, turn, user("how ?")]).usage.prompt_tokens
        for turn in (plain, said, said.model_dump(), {**plain, **empty}, {**plain, "annotations": [], "name": ""})
    ]
    assert len({*prompts}) == 1
    for given in ({"refusal": "no"}, {"tool_calls": [{"id": "a"}]}, {"name": "ann"}, {"of_later": False}):
        with pytest.raises(openai.BadRequestError, match=f"messages.1.{next(iter(given))}: "):
            client.chat.completions.create(model=NAME, messages=[*first, {**plain, **given}, user("how ?")])


def test_sixty_four_at_once_get_what_each_gets_alone(model, served):
    """Other clips, lengths, seeds and contrasts in one batch: no answer is lost, and none is another's."""
    rng = np.random.default_rng(0)
    asked, expected = [], []
    for number in range(64):
        files = [file_of(f"{number}-{n}", float(rng.uniform(0.1, 1.0))) for n in range(number % 3)]
        question = f"{' '.join(rng.choice(['who', 'how', 'loud', 'male', 'voice'], 1 + number % 5))} ?"
        more, same = [*WAYS.values()][number % len(WAYS)] if files else WAYS["sampled"]
        length = 4 + number % 9
        asked.append(asking(question, *files, max_tokens=length, stream=number % 4 == 0, **more))
        expected.append(model.answer(files, question, max_new_tokens=length, **same))
    client, batches = served.client(), served.metric("caad_batch_size_count")

    def said(request) -> str:
        done = client.chat.completions.create(**request)
        return "".join(chunk.choices[0].delta.content or "" for chunk in done) if request["stream"] else text(done)

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(said, asked))
    assert found == expected and len({*expected}) > 48
    assert served.metric("caad_batch_size_count") - batches < 48, "they are not batched"


def test_a_family_of_transformers_is_served_as_well(tmp_path):
    one = caad_ds.load(tiny_qwen2_audio.write(tmp_path / "model"), device="cpu")
    files = [file_of(f"of a family {n}", 0.4 + 0.2 * n) for n in range(4)]
    expected = [one.answer(each, "Is it low?", max_new_tokens=12) for each in files]
    with running(one) as served, ThreadPoolExecutor(4) as pool:
        given = [asking("Is it low?", each, max_tokens=12) for each in files]
        client = served.client()
        assert [*pool.map(lambda each: text(client.chat.completions.create(**each)), given)] == expected
        system = [{"role": "system", "content": "<|im_start|>"}, user("Is it low?")]
        with pytest.raises(openai.BadRequestError, match="control token"):
            client.chat.completions.create(model=NAME, messages=system)
        with pytest.raises(openai.BadRequestError, match="lasts more than 2 s"):
            client.chat.completions.create(**asking("Is it low?", file_of("long", 2.5)))
        with pytest.raises(openai.BadRequestError, match="this model's prompt holds none"):
            client.chat.completions.create(**given[0], extra_body={"caad_transcripts": ["a"]})
    assert len({*expected}) == 4


def test_models_are_listed(served, client):
    [listed] = client.models.list().data
    assert listed.id == NAME and client.models.retrieve(NAME) == listed
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError, match="'other' is not served here; ask student"):
        client.chat.completions.create(model="other", messages=[user(QUESTION)])


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_hangs_up_ends_its_answer(served, endless, streamed):
    long = asking(QUESTION, ONE, max_tokens=1500, stream=streamed)
    gone = served.metric('caad_requests_total{status="499"}')
    with served.client(timeout=0.5) as client:
        if streamed:
            answer = client.chat.completions.create(**long)
            next(iter(answer))
            answer.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(**long)
    [worker] = served.service._workers.values()
    served.wait(lambda: not served.service.inside and not worker._running, 2.0)
    assert served.metric('caad_requests_total{status="499"}') == gone + 1
    tokens = served.metric('caad_tokens_total{kind="completion"}')
    served.client().chat.completions.create(**asking(QUESTION, ONE, max_tokens=5))
    assert served.metric('caad_tokens_total{kind="completion"}') == tokens + 5
