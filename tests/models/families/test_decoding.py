"""Answers of an audio LLM of transformers: greedy, contrastive and sampled, against a loop without a cache."""

from dataclasses import replace

import pytest
import torch

from caad_ds.data.batch import IGNORE, Batch
from caad_ds.generation.decoding import Contrast, decode, generate
from caad_ds.generation.sampling import Sampling
from tests.models.families.conftest import own_logits

pytestmark = pytest.mark.numeric

ALPHA, STEPS = 1.5, 12


def prompts(parts, samples) -> Batch:
    return parts.batch(samples, pad="left", with_answer=False)


def longer(batch: Batch, tokens: torch.Tensor) -> Batch:
    """The prompts with these tokens [B, T] behind them."""
    more = torch.zeros_like(tokens)
    behind = {"input_ids": tokens, "attention_mask": more + 1, "audio_mask": more.bool(), "labels": more + IGNORE}
    return replace(batch, **{name: torch.cat([getattr(batch, name), each], 1) for name, each in behind.items()})


def last(parts, batch: Batch) -> torch.Tensor:
    """Return the family's own logits of the next token, by a separate, unpadded forward per sample."""
    rows = []
    for number in range(len(batch.keys)):
        alone = batch.select(torch.tensor([number]))
        kept = alone.attention_mask[0].bool()
        columns = ("input_ids", "attention_mask", "audio_mask", "labels")
        heard = alone.audio if len(alone.audio_index) else {}
        cut = replace(alone, audio=heard, **{name: getattr(alone, name)[:, kept] for name in columns})
        rows.append(own_logits(parts.model, cut)[0, -1])
    return torch.stack(rows)


def without_cache(parts, batch, negative=None, steps=STEPS, suppressed=()):
    """Return the most likely tokens [B, steps] by a complete forward per step; no answer ends."""
    tokens = torch.empty(len(batch.keys), 0, dtype=torch.long)
    for _ in range(steps):
        z = last(parts, longer(batch, tokens))
        if negative is not None:
            z = (1 + ALPHA) * z - ALPHA * last(parts, longer(negative, tokens))
        z[:, [*suppressed, parts.reader.prompts.placeholder]] = -torch.inf
        tokens = torch.cat([tokens, z.argmax(-1, keepdim=True)], 1)
    return tokens


def ends(parts):
    return {parts.processor.tokenizer.eos_token_id, parts.reader.prompts.turn.end}


@pytest.mark.parametrize("name", [None, "zero_mel", "text_only", "silence"])
def test_greedy_decoding_equals_a_loop_without_a_cache(parts, samples, name):
    batch = prompts(parts, samples)
    negative = None if name is None else parts.negative(name, batch, samples)
    contrasted = None if name is None else Contrast(ALPHA, name)
    found = generate(
        parts.lm, batch, max_new_tokens=STEPS, min_new_tokens=STEPS, contrasted=contrasted, negative=negative
    )
    expected = without_cache(parts, batch, negative, suppressed=ends(parts))
    assert found.shape == (len(samples), STEPS)
    assert found.tolist() == expected.tolist()
    assert len({tuple(row) for row in found.tolist()}) > 1
    if name is not None:
        plain = generate(parts.lm, batch, max_new_tokens=STEPS, min_new_tokens=STEPS)
        assert (plain != found).any()


def test_the_audio_decides_what_is_answered(parts, samples):
    batch = prompts(parts, samples)
    silent = parts.negative("zero_mel", batch, samples)
    heard, unheard = (generate(parts.lm, each, max_new_tokens=STEPS, min_new_tokens=STEPS) for each in (batch, silent))
    assert (heard != unheard).any(1)[:3].any() and torch.equal(heard[3], unheard[3])


def test_an_answer_ends_at_a_token_of_the_generation_config(parts, samples, monkeypatch):
    batch = prompts(parts, samples)
    whole = without_cache(parts, batch, suppressed=ends(parts))
    stop = whole[0, 4].item()
    monkeypatch.setattr(parts.model.generation_config, "eos_token_id", [stop])
    found = generate(parts.lm, batch, max_new_tokens=STEPS)
    eos = parts.processor.tokenizer.eos_token_id
    for row, expected in zip(found.tolist(), without_cache(parts, batch).tolist(), strict=True):
        place = next((n for n, token in enumerate(expected) if token in {stop, *ends(parts)}), len(expected))
        assert row[: place + 1] == expected[: place + 1][: len(row)]
        assert set(row[place + 1 :]) <= {eos}
    # Other settings of the file, such as sampling, change nothing.
    monkeypatch.setattr(parts.model.generation_config, "do_sample", True)
    monkeypatch.setattr(parts.model.generation_config, "repetition_penalty", 1.5)
    monkeypatch.setattr(parts.model.generation_config, "bad_words_ids", [[stop]])
    assert torch.equal(generate(parts.lm, batch, max_new_tokens=STEPS), found)


@pytest.mark.parametrize("name", [None, "zero_mel", "text_only"])
def test_sampling_repeats_and_does_not_depend_on_the_batch(parts, samples, name):
    def drawn(chosen, seed=0, steps=STEPS):
        batch = prompts(parts, chosen)
        more = {} if name is None else {
            "contrasted": Contrast(ALPHA, name), "negative": parts.negative(name, batch, chosen),
        }  # fmt: skip
        sampling = Sampling(temperature=1.3, top_p=0.95, seed=seed)
        return generate(parts.lm, batch, max_new_tokens=steps, min_new_tokens=steps, sampling=sampling, **more)

    together = drawn(samples)
    assert torch.equal(drawn(samples), together)
    assert not torch.equal(drawn(samples, seed=1), together)
    assert torch.equal(drawn(samples[::-1]).flip(0), together)
    assert torch.equal(torch.cat([drawn([each]) for each in samples]), together)
    assert torch.equal(drawn(samples, steps=5), together[:, :5])


def test_the_placeholder_is_never_answered(parts, samples):
    weight = parts.model.lm_head.weight
    kept = weight.clone()
    batch = prompts(parts, samples)
    states = parts.model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **batch.placed())
    weight[parts.reader.prompts.placeholder] = 100 * states.last_hidden_state[:, -1].sum(0)
    try:
        assert (own_logits(parts.model, batch)[:, -1].argmax(-1) == parts.reader.prompts.placeholder).any()
        found = generate(parts.lm, batch, max_new_tokens=3, min_new_tokens=3)
    finally:
        weight.copy_(kept)
    assert (found != parts.reader.prompts.placeholder).all()


def test_answers_as_text(parts, samples):
    batch = prompts(parts, samples)
    tokens = generate(parts.lm, batch, max_new_tokens=STEPS)
    texts = decode(parts.lm, batch, max_new_tokens=STEPS)
    assert texts == [each.strip() for each in parts.processor.batch_decode(tokens, skip_special_tokens=True)]
