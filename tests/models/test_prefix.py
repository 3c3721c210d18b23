"""The kept beginning of the negative path: the same hidden states from fewer positions."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from caad_ds.config.schema import NEGATIVES
from caad_ds.distill.prefix import KEPT, shared_prefix
from caad_ds.distill.signal import TeacherForward
from caad_ds.models.negatives import Negative
from caad_ds.utils.errors import UserError
from tests.models.small import QUERIES, sample
from tests.training.tiny import amplify

pytestmark = pytest.mark.numeric

WINDOW = 16  # shorter than a prompt, and long enough for an answer to see what is kept


def asked(key: str, question: str = "Is it high?", system: str = "beep"):
    """A record under a system prompt."""
    one = sample(key, response=f"It is {key}.")
    one.record["messages"][0]["content"] = one.record["messages"][0]["content"].replace("Is the tone", question)
    one.record["messages"].insert(0, {"role": "system", "content": system})
    return one


@pytest.fixture
def batch(parts):
    """Three samples of unequal length that begin alike, with their states."""
    made = parts.batch([asked("low"), asked("high", "It is the tone?"), asked("c", "high or low? beep beep")])
    return made, parts.encoder.encode(made.features)


def lengths(model) -> list[tuple[int, int]]:
    """Filled with samples and positions of each pass through the first layer."""
    seen: list[tuple[int, int]] = []
    model.llm.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[:2])))
    return seen


def other_llm(parts, settings: dict):
    """A random LLM of another family, as large as the model's own."""
    own = parts.model.config.llm_config
    shape = {name: getattr(own, name) for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings",
    )}  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape | settings)).eval()


def assert_equal_paths(parts, first, second) -> None:
    for ours, theirs in zip(first, second, strict=True):
        parts.close(ours, theirs)


@pytest.mark.parametrize("name", NEGATIVES)
def test_a_kept_beginning_changes_no_hidden_state(parts, batch, name):
    negative = Negative.of(name, parts.encoder)
    kept, plain = TeacherForward(parts.model, negative, keep_prefix=True), TeacherForward(parts.model, negative)
    expected = plain(*batch)
    seen = lengths(parts.model)
    assert_equal_paths(parts, kept(*batch), expected)
    assert_equal_paths(parts, kept(*batch), expected)
    samples, positions = batch[0].input_ids.shape
    prefix = shared_prefix(batch[0], QUERIES)
    assert prefix > QUERIES + 1
    prefix -= QUERIES if name == "text_only" else 0  # removed, not silent
    rest = [(samples, positions - prefix), (samples, positions)]
    assert seen == [(1, prefix), *rest, *rest]


@pytest.mark.parametrize(
    ("settings", "attention"),
    [
        ({"model_type": "mistral", "sliding_window": WINDOW}, "sdpa"),
        ({"model_type": "mistral", "sliding_window": WINDOW}, "eager"),
        ({"model_type": "gemma2", "sliding_window": WINDOW, "head_dim": 16, "attn_logit_softcapping": 5.0}, "eager"),
        ({"model_type": "qwen3", "head_dim": 16}, "sdpa"),
    ],
    ids=["mistral-sdpa", "mistral-eager", "gemma2", "qwen3"],
)
def test_with_other_language_models(parts, batch, settings, attention):
    parts.model.llm = other_llm(parts, settings)
    parts.model.llm.set_attn_implementation(attention)
    amplify(parts.model.llm.model.layers)
    negative = Negative.of("zero_mel", parts.encoder)
    kept, plain = TeacherForward(parts.model, negative, keep_prefix=True), TeacherForward(parts.model, negative)
    assert_equal_paths(parts, kept(*batch), plain(*batch))
    assert_equal_paths(parts, kept(*batch), plain(*batch))


def test_layers_that_keep_other_things_are_refused(parts):
    negative = Negative.of("zero_mel", parts.encoder)
    parts.model.llm.config.layer_types = ["conv", "full_attention"]
    with pytest.raises(UserError, match=r"teacher\.keep_prefix: llama has layers of conv; set it to false"):
        TeacherForward(parts.model, negative, keep_prefix=True)
    parts.model.llm = other_llm(parts, {"model_type": "rwkv"})
    with pytest.raises(UserError, match=r"teacher\.keep_prefix: rwkv has layers of a state; set it to false"):
        TeacherForward(parts.model, negative, keep_prefix=True)


@pytest.mark.parametrize("pad", ["right", "left"])
def test_samples_that_begin_differently_take_one_forward_of_both_paths(parts, pad):
    texts = [asked("a"), asked("b", system="high")] if pad == "right" else [asked("a"), asked("low", "It is high or?")]
    batch = parts.batch(texts, pad=pad)
    assert shared_prefix(batch, QUERIES) == 0
    states, negative = parts.encoder.encode(batch.features), Negative.of("zero_mel", parts.encoder)
    expected = TeacherForward(parts.model, negative)(batch, states)
    seen = lengths(parts.model)
    got = TeacherForward(parts.model, negative, keep_prefix=True)(batch, states)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected, strict=True))
    assert seen == [(4, batch.input_ids.shape[1])]


def test_a_sample_with_a_second_audio_hears_its_silence_too(parts, samples):
    batch = parts.batch(samples)
    states, negative = parts.encoder.encode(batch.features), Negative.of("noise", parts.encoder)
    prefix = shared_prefix(batch, QUERIES)
    assert prefix and batch.audio_mask[:, prefix:].any()
    kept = TeacherForward(parts.model, negative, keep_prefix=True)
    assert_equal_paths(parts, kept(batch, states), TeacherForward(parts.model, negative)(batch, states))


def test_an_audio_that_the_answer_follows_at_once_is_not_kept(parts, monkeypatch):
    bare = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    monkeypatch.setattr(parts.prompter.tokenizer, "chat_template", bare)
    texts = [sample(key, text="") for key in ("a", "b")]
    for one in texts:
        one.record["messages"] = [{"role": "user", "content": "Is it high? <|AUDIO|>"}]
    batch = parts.batch(texts)
    first = batch.answer_rows[0]
    assert batch.audio_mask[0, first] and not batch.audio_mask[0, first + 1]
    states, negative = parts.encoder.encode(batch.features), Negative.of("zero_mel", parts.encoder)
    kept = TeacherForward(parts.model, negative, keep_prefix=True)
    assert_equal_paths(parts, kept(batch, states), TeacherForward(parts.model, negative)(batch, states))


def test_no_audio_no_prefix(parts):
    assert shared_prefix(parts.prompter.batch([sample("a", audios=0), sample("b", audios=0)]), QUERIES) == 0


def test_what_is_kept_depends_on_no_other_sample_and_has_a_bound(parts, batch):
    negative = Negative.of("zero_mel", parts.encoder)
    kept, fresh = (TeacherForward(parts.model, negative, keep_prefix=True) for _ in range(2))
    for count in range(KEPT + 1):
        for key in ("low", "high"):
            other = parts.batch([asked(key, system="beep " * (count + 1))])
            kept(other, parts.encoder.encode(other.features))
    assert len(kept.kept) == KEPT
    assert all(torch.equal(a, b) for a, b in zip(kept(*batch), fresh(*batch), strict=True))
