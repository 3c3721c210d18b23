"""The kept beginning of the negative path: the same hidden states from fewer positions."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from caad_ds.config.objective_section import NEGATIVES
from caad_ds.data.batch import Batch
from caad_ds.distill.shared_prefix import KEPT, shared_prefix
from caad_ds.distill.teacher_signal import TeacherForward
from caad_ds.utils.errors import UserError
from tests.models.small import QUERIES, sample
from tests.training.tiny import amplify

pytestmark = pytest.mark.numeric

WINDOW = 16  # shorter than a prompt, and long enough for an answer to see what is kept


def prompt_sample(key: str, question: str = "Is it high?", system: str = "beep"):
    """A record under a system prompt."""
    one = sample(key, response=f"It is {key}.")
    one.record["messages"][0]["content"] = one.record["messages"][0]["content"].replace("Is the tone", question)
    one.record["messages"].insert(0, {"role": "system", "content": system})
    return one


@pytest.fixture
def alike():
    """Three samples of unequal length with a common prefix."""
    return [
        prompt_sample("low"),
        prompt_sample("high", "It is the tone?"),
        prompt_sample("c", "high or low? beep beep"),
    ]


def paths(parts, name: str, samples, **kwargs) -> tuple[Batch, Batch]:
    """Batches of both paths of the negative `name`, prepared."""
    batch = parts.batch(samples, **kwargs)
    negative = parts.negative(name, batch, samples, lambda key, number: sample(f"{key}{number}").waveforms[0])
    return parts.lm.prepare(batch), parts.lm.prepare(negative)


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


@pytest.mark.parametrize("name", [name for name in NEGATIVES if name != "shuffled"])
def test_a_kept_beginning_changes_no_hidden_state(parts, alike, name):
    both = paths(parts, name, alike)
    kept, plain = TeacherForward(parts.lm, keep_prefix=True), TeacherForward(parts.lm)
    expected = plain(*both)
    seen = lengths(parts.model)
    assert_equal_paths(parts, kept(*both), expected)
    assert_equal_paths(parts, kept(*both), expected)
    samples, positions = both[0].input_ids.shape
    prefix = shared_prefix(both[0])
    assert prefix > QUERIES + 1
    prefix -= QUERIES if name == "text_only" else 0  # removed, not silent
    rest = [(samples, positions - prefix), (samples, positions)]
    assert seen == [(1, prefix), *rest, *rest]


def test_a_negative_that_depends_on_the_sample_has_no_beginning_to_keep(parts, alike):
    both = paths(parts, "shuffled", alike)
    kept = TeacherForward(parts.lm, keep_prefix=True)
    expected = TeacherForward(parts.lm)(*both)
    seen = lengths(parts.model)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept(*both), expected, strict=True))
    assert seen == [(6, both[0].input_ids.shape[1])] and len(kept.kept) == 0


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
def test_with_other_language_models(parts, alike, settings, attention):
    parts.model.llm = other_llm(parts, settings)
    parts.model.llm.set_attn_implementation(attention)
    amplify(parts.model.llm.model.layers)
    both = paths(parts, "zero_mel", alike)
    kept, plain = TeacherForward(parts.lm, keep_prefix=True), TeacherForward(parts.lm)
    assert_equal_paths(parts, kept(*both), plain(*both))
    assert_equal_paths(parts, kept(*both), plain(*both))


def test_layers_that_keep_other_things_are_refused(parts):
    parts.model.llm.config.layer_types = ["conv", "full_attention"]
    with pytest.raises(UserError, match=r"teacher\.keep_prefix: llama has layers of conv; set it to false"):
        TeacherForward(parts.lm, keep_prefix=True)
    parts.model.llm = other_llm(parts, {"model_type": "rwkv"})
    with pytest.raises(UserError, match=r"teacher\.keep_prefix: rwkv has layers of a state; set it to false"):
        TeacherForward(parts.lm, keep_prefix=True)


@pytest.mark.parametrize("pad", ["right", "left"])
def test_samples_that_begin_differently_take_one_forward_of_both_paths(parts, pad):
    texts = (
        [prompt_sample("a"), prompt_sample("b", system="high")]
        if pad == "right"
        else [prompt_sample("a"), prompt_sample("low", "It is high or?")]
    )
    both = paths(parts, "zero_mel", texts, pad=pad)
    assert shared_prefix(both[0]) == 0
    expected = TeacherForward(parts.lm)(*both)
    seen = lengths(parts.model)
    got = TeacherForward(parts.lm, keep_prefix=True)(*both)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected, strict=True))
    assert seen == [(4, both[0].input_ids.shape[1])]


def test_a_sample_with_a_second_audio_hears_its_silence_too(parts, samples):
    both = paths(parts, "noise", samples)
    prefix = shared_prefix(both[0])
    assert prefix and both[0].audio_mask[:, prefix:].any()
    kept = TeacherForward(parts.lm, keep_prefix=True)
    assert_equal_paths(parts, kept(*both), TeacherForward(parts.lm)(*both))


def test_an_audio_that_the_answer_follows_at_once_is_not_kept(parts, monkeypatch):
    bare = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    monkeypatch.setattr(parts.reader.tokenizer, "chat_template", bare)
    texts = [sample(key, text="") for key in ("a", "b")]
    for one in texts:
        one.record["messages"] = [{"role": "user", "content": "Is it high? <|AUDIO|>"}]
    both = paths(parts, "zero_mel", texts)
    batch = both[0]
    first = batch.answer_rows[0]
    assert batch.audio_mask[0, first] and not batch.audio_mask[0, first + 1]
    kept = TeacherForward(parts.lm, keep_prefix=True)
    assert_equal_paths(parts, kept(*both), TeacherForward(parts.lm)(*both))


def test_no_audio_no_prefix(parts):
    assert shared_prefix(parts.batch([sample("a", audios=0), sample("b", audios=0)])) == 0


def test_what_is_kept_depends_on_no_other_sample_and_has_a_bound(parts, alike):
    kept, fresh = (TeacherForward(parts.lm, keep_prefix=True) for _ in range(2))
    for count in range(KEPT + 1):
        for key in ("low", "high"):
            kept(*paths(parts, "zero_mel", [prompt_sample(key, system="beep " * (count + 1))]))
    assert len(kept.kept) == KEPT
    both = paths(parts, "zero_mel", alike)
    assert all(torch.equal(a, b) for a, b in zip(kept(*both), fresh(*both), strict=True))
