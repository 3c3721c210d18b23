import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from caad_ds.config.objective_section import NEGATIVES
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.generation.decoding import Contrast, ContrastiveLogits, decode, generate
from caad_ds.generation.model import Model
from caad_ds.generation.sampling import Draw, Forbid, Sampling
from caad_ds.loss import LMHead, contrast, contrastive_distillation_loss
from tests.tolerance import SIGMAS, assert_close

pytestmark = pytest.mark.numeric

LENGTH = 8
SAMPLED = Sampling(temperature=1.5, top_p=0.95, seed=3)


@pytest.fixture
def loaded(model_folder):
    return Model.load(model_folder, torch.device("cpu"))


@pytest.fixture
def items(conflicts):
    return [item for row in Benchmark.load(conflicts).rows for item in row.items()]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_draw_no_forbidden_token(value):
    forbidden = torch.zeros(6, dtype=torch.bool)
    forbidden[[4, 5]] = True
    scores = Forbid(forbidden)(torch.zeros(2, 0), torch.full((2, 6), value))
    assert Draw(np.full((2, 1), 0.999), 0)(torch.zeros(2, 0), scores).argmax(-1).tolist() == [3, 3]


def second(clips, items, batch, contrasted):
    return None if contrasted is None else clips.negative(items, batch, contrasted.negative)


def answers(loaded, items, size, contrasted=None, sampling=None):
    texts, clips = [], loaded.clips(items)
    for start in range(0, len(items), size):
        part = clips.encode(items[start : start + size])
        batch = clips.prompts(part)
        texts += decode(
            loaded.lm, batch, max_new_tokens=LENGTH, contrasted=contrasted,
            negative=second(clips, part, batch, contrasted), sampling=sampling,
        )  # fmt: skip
    return texts


def tokens(loaded, items, keys=None, contrasted=None, **options):
    clips = loaded.clips(items)
    batch = clips.prompts(clips.encode(items))
    negative = second(clips, items, batch, contrasted)
    batch = replace(batch, keys=keys or batch.keys)
    options = {"max_new_tokens": LENGTH, **options}
    return generate(loaded.lm, batch, contrasted=contrasted, negative=negative, **options)


def step_by_step(loaded, item, others, contrasted):
    """Decode greedily by complete forwards of one unpadded prompt per pass, without a cache."""
    clips = loaded.clips(others)
    batch = clips.prompts(clips.encode([item]))
    said = []
    for _ in range(LENGTH):
        now = extended(batch, said)
        z_pos = logits(loaded, now)
        z_neg = logits(loaded, unpadded(second(clips, [item], now, contrasted)))
        token = int(contrast(z_pos, z_neg, strength(contrasted, z_neg)).argmax())
        if token == loaded.tokenizer.eos_token_id:
            break
        said.append(token)
    return loaded.tokenizer.decode(said, skip_special_tokens=True).strip()


def strength(contrasted, z_neg):
    """The alpha of a step: the gate's formula, or the constant."""
    if contrasted.alpha_gate == "none":
        return contrasted.alpha
    [p] = z_neg.double().softmax(-1)
    entropy = -sum(v * math.log(v) for v in p.tolist() if v > 0)
    return contrasted.alpha * max(0.0, 1 - entropy / math.log(contrasted.gate_m))


def extended(batch, said):
    more = torch.tensor([said], dtype=torch.long)
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, more], 1),
        attention_mask=torch.ones(1, batch.input_ids.shape[1] + len(said), dtype=torch.long),
        audio_mask=torch.cat([batch.audio_mask, torch.zeros_like(more, dtype=torch.bool)], 1),
        labels=torch.cat([batch.labels, torch.full_like(more, -100)], 1),
    )


def unpadded(batch):
    kept = batch.attention_mask[0].bool()
    names = "input_ids", "attention_mask", "audio_mask", "labels"
    return replace(batch, **{name: getattr(batch, name)[:, kept] for name in names})


@torch.no_grad()
def logits(loaded, batch):
    """Those of the token after a batch of one prompt."""
    embedded = loaded.lm.embedded(batch)
    last = torch.tensor([embedded.attention_mask.shape[1] - 1])
    return loaded.lm.head().logits(loaded.lm.module.hidden_states(replace(embedded, answer_rows=last)))


@pytest.mark.parametrize("sampling", [None, SAMPLED])
@pytest.mark.parametrize(("alpha", "negative"), [(None, None), (1.5, "zero_mel"), (1.5, "shuffled")])
def test_same_answers_whatever_the_batch_size(loaded, items, alpha, negative, sampling):
    contrasted, clips = alpha and Contrast(alpha, negative), loaded.clips()
    lengths = {len(clips.prompts(clips.encode([item])).input_ids[0]) for item in items}
    assert len(lengths) > 2, "padding has to matter"
    alone = answers(loaded, items, 1, contrasted, sampling)
    assert len(set(alone)) > 3
    assert answers(loaded, items, 8, contrasted, sampling) == alone
    assert answers(loaded, items, len(items), contrasted, sampling) == alone


@pytest.mark.parametrize("sampling", [None, SAMPLED])
@pytest.mark.parametrize("name", NEGATIVES)
def test_alpha_zero_gives_the_tokens_of_plain_decoding(loaded, items, name, sampling):
    plain = tokens(loaded, items, sampling=sampling)
    assert torch.equal(tokens(loaded, items, sampling=sampling, contrasted=Contrast(0.0, name)), plain)
    assert not torch.equal(tokens(loaded, items, sampling=sampling, contrasted=Contrast(2.0, name)), plain)


@pytest.mark.parametrize("name", NEGATIVES)
def test_contrastive_decoding_equals_two_separate_passes(loaded, items, name):
    chosen, contrasted = items[:3] + items[-2:], Contrast(1.0, name)
    batched = answers(loaded, chosen, len(chosen), contrasted)
    assert batched == [step_by_step(loaded, item, chosen, contrasted) for item in chosen]


@pytest.mark.parametrize("name", ["zero_mel", "text_only"])
def test_gated_decoding_equals_two_separate_passes(loaded, items, name):
    """Alpha is per step and sample, independent of the batch."""
    chosen, gate_m = items[:5] + items[-3:], 40.0
    contrasted = Contrast(4.0, name, alpha_gate="text_certainty", gate_m=gate_m)
    said = answers(loaded, chosen, len(chosen), contrasted)
    assert said == [step_by_step(loaded, item, chosen, contrasted) for item in chosen]
    constant = answers(loaded, chosen, len(chosen), Contrast(4.0, name))
    assert said != constant and said != answers(loaded, chosen, len(chosen))


def test_a_gate_contrasts_where_the_second_path_is_sure():
    """By hand: z_neg with one token, two equal tokens, and half a bit of entropy; excluded tokens do not count."""
    z_pos = torch.tensor([[1.0, 3.0, -torch.inf]]).expand(3, 3)
    half = math.log(0.11002786443835955 / (1 - 0.11002786443835955))  # the entropy of such a coin is half of log 2
    z_neg = torch.tensor([[500.0, 0, -torch.inf], [2, 2, -torch.inf], [0, half, -torch.inf]])
    gated = ContrastiveLogits(2.0, alpha_gate="text_certainty")(None, torch.cat([z_pos, z_neg]))
    assert torch.equal(gated[:3], gated[3:])
    assert gated[0].tolist() == [3 * 1.0 - 2 * 500, 9.0, -torch.inf]
    assert gated[1].tolist() == [1.0, 3.0, -torch.inf]
    assert gated[2].tolist() == [pytest.approx(2.0), pytest.approx(6 - half), -torch.inf]


def test_plausibility_keeps_only_what_the_positive_path_finds_likely():
    z_pos, z_neg = torch.tensor([[2.0, 1.9, -3.0]]), torch.tensor([[2.0, 1.0, -9.0]])
    both = torch.cat([z_pos, z_neg])
    free = ContrastiveLogits(2.0)(None, both)
    assert free.tolist() == [pytest.approx([2.0, 3.7, 9.0])] * 2
    kept = ContrastiveLogits(2.0, plausibility=0.1)(None, both)
    assert kept[0].argmax() == kept[1].argmax() == 1 and kept[0, 2] == -torch.inf
    assert ContrastiveLogits(2.0, plausibility=1.0)(None, both)[0].argmax() == 0


def test_what_both_paths_rule_out_stays_ruled_out():
    both = torch.tensor([[1.0, -torch.inf, 0.0], [0.5, -torch.inf, 2.0]])
    assert ContrastiveLogits(1.0)(None, both).tolist() == [[1.5, -torch.inf, -2.0]] * 2


@pytest.mark.parametrize("name", NEGATIVES)
def test_a_step_is_the_teacher_forced_contrast_of_the_loss(loaded, items, terms, name, monkeypatch):
    """The distribution of every step, padded and with a cache, is the distillation target at that answer row."""
    alpha, tau = 1.5, 2.0
    contrasted, chosen, steps = Contrast(alpha, name), items[:2] + items[-3:], []
    call = ContrastiveLogits.__call__
    monkeypatch.setattr(ContrastiveLogits, "__call__", lambda *given: steps.append(call(*given)) or steps[-1])
    said = tokens(loaded, chosen, contrasted=contrasted, min_new_tokens=LENGTH)
    lm, clips = loaded.lm, loaded.clips(chosen)
    head = lm.head()
    for k, item in enumerate(chosen):
        batch = extended(clips.prompts(clips.encode([item])), said[k].tolist())
        batch.labels[0, -LENGTH:] = said[k]
        with torch.no_grad():
            h_pos = lm.hidden(batch)
            h_neg = lm.hidden(second(clips, [item], batch, contrasted))
        z_c = contrast(head.logits(h_pos), head.logits(h_neg), alpha)
        decoded = torch.stack([z[k] for z in steps])
        largest = (1 + 2 * alpha) * max(head.logits(h).abs().max().item() for h in (h_pos, h_neg))
        assert_close(decoded.log_softmax(-1), z_c.log_softmax(-1), terms, largest)
        identity = LMHead(torch.eye(decoded.shape[1]))  # a student whose logits are those of the decoder
        decoded.requires_grad_(True)
        loss = contrastive_distillation_loss(
            decoded, identity, h_pos, h_neg, head, said[k], alpha=alpha, temperature=tau, kd_weight=1.0
        ).loss
        # tau * (p - q) / rows: of first order in differences of logits, where the loss is of second.
        [gradient] = torch.autograd.grad(loss, decoded)
        assert_close(gradient * LENGTH / tau, torch.zeros_like(gradient), terms, largest / tau)


@pytest.mark.parametrize("sampling", [None, SAMPLED])
def test_both_paths_go_on_with_one_token(loaded, items, sampling):
    seen = Seen()
    contrasted = Contrast(1.0, "silence")
    said = tokens(loaded, items, contrasted=contrasted, sampling=sampling, streamer=seen)
    heard, unheard = torch.stack(seen.steps, dim=1).chunk(2)
    assert torch.equal(heard, said) and torch.equal(unheard, said)


class Seen(BaseStreamer):
    """Keeps what each step gave to every row of the batch."""

    def __init__(self):
        self.steps = []

    def put(self, value):
        if value.dim() == 1:  # the prompt comes first, as a matrix
            self.steps.append(value)

    def end(self):
        pass


@pytest.mark.parametrize("alpha", [None, 1.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(loaded, items, alpha):
    item, count, temperature = items[0], 3000, 2.5
    contrasted, clips = None if alpha is None else Contrast(alpha, "zero_mel"), loaded.clips()
    batch = clips.prompts(clips.encode([item]))
    z = logits(loaded, batch)[0]
    if contrasted is not None:
        z = contrast(z, logits(loaded, second(clips, [item], batch, contrasted))[0], alpha)
    expected = count * torch.softmax(z / temperature, dim=-1)
    drawn = tokens(
        loaded, [item] * count, [f"{k}" for k in range(count)],
        sampling=Sampling(temperature), contrasted=contrasted, max_new_tokens=1,
    )[:, 0]  # fmt: skip
    often = expected >= 5
    observed = torch.bincount(drawn, minlength=len(z)).double()
    bins = [(observed[often], expected[often]), (observed[~often].sum()[None], expected[~often].sum()[None])]
    chi_square = sum(((o - e) ** 2 / e).sum().item() for o, e in bins if e.sum() > 0)
    degrees = int(often.sum())
    assert degrees > 5
    assert chi_square < degrees + SIGMAS * np.sqrt(2 * degrees)


def test_top_k_and_top_p_leave_the_likeliest():
    z = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    def drawn(sampling):
        *warpers, draw = sampling.processors(["an item"], 500)
        scores = z[None]
        for warper in warpers:
            scores = warper(None, scores)
        steps = [torch.zeros(1, step) for step in range(500)]
        return {int(draw(step, scores).argmax()) for step in steps}

    assert drawn(Sampling()) == {0, 1, 2, 3}
    assert drawn(Sampling(top_k=3)) == {0, 1, 2}
    assert drawn(Sampling(top_p=0.7)) == {0, 1}
    assert drawn(Sampling(temperature=0.05)) == {0}


def test_a_draw_depends_on_seed_item_and_step_alone(loaded, items):
    some = items[:4]
    first = tokens(loaded, some, sampling=SAMPLED)
    assert torch.equal(tokens(loaded, some[::-1], sampling=SAMPLED).flip(0), first)
    assert not torch.equal(tokens(loaded, some, sampling=replace(SAMPLED, seed=4))[:, :2], first[:, :2])
    same = tokens(loaded, [some[0]] * 6, [f"{k}" for k in range(6)], sampling=SAMPLED)
    assert len(set(map(tuple, same.tolist()))) > 1, "other items draw other numbers"


def test_after_its_end_an_answer_is_padded(loaded, items):
    end = loaded.tokenizer.eos_token_id
    said = tokens(loaded, items, contrasted=Contrast(1.0, "zero_mel"), sampling=SAMPLED)
    lengths = [row.index(end) if end in row else len(row) for row in said.tolist()]
    assert len(set(lengths)) > 2
    for row, length in zip(said.tolist(), lengths, strict=True):
        assert set(row[length:]) <= {end}
    assert (tokens(loaded, items, min_new_tokens=LENGTH, sampling=SAMPLED) != end).all()


def test_nothing_else_of_a_checkpoints_generation_config_is_followed(loaded, items):
    plain = tokens(loaded, items)
    said = plain.flatten().unique().tolist()
    leaks = {
        "suppress_tokens": said,
        "begin_suppress_tokens": said,
        "bad_words_ids": [[token] for token in said],
        "sequence_bias": [[[token], -10.0] for token in said],
        "forced_bos_token_id": 5,
        "min_new_tokens": LENGTH,
        "repetition_penalty": 3.0,
        "num_beams": 2,
        "do_sample": True,
        "top_k": 3,
        "min_p": 0.9,
    }
    for name, value in leaks.items():
        setattr(loaded.lm.generator.generation_config, name, value)
    assert torch.equal(tokens(loaded, items), plain)
    assert loaded.lm.generator.generation_config.min_new_tokens == LENGTH, "it is the checkpoint's still"


def test_a_second_end_token_of_the_checkpoint_ends_an_answer(loaded, items):
    plain = tokens(loaded, items)
    other = int(plain[plain != loaded.tokenizer.eos_token_id].mode().values)
    loaded.lm.generator.generation_config.eos_token_id = [other]
    for before, after in zip(plain.tolist(), tokens(loaded, items).tolist(), strict=True):
        stop = next((k for k, token in enumerate(before) if token in (other, loaded.tokenizer.eos_token_id)), LENGTH)
        assert after[: stop + 1] == before[: stop + 1][: len(after)]
        assert set(after[stop + 1 :]) <= {loaded.tokenizer.eos_token_id}
