from dataclasses import replace

import pytest
import torch

from caad_ds.distill.negatives import NEGATIVES, Negative, embed_without_audio
from caad_ds.evaluation.decoding import Contrast, ContrastiveLogits, decode
from caad_ds.evaluation.inference import Clips, Loaded
from caad_ds.evaluation.mcr_bench import Benchmark
from caad_ds.loss.objective import contrast

LENGTH = 8


@pytest.fixture
def loaded(model_folder):
    return Loaded.load(model_folder, torch.device("cpu"))


@pytest.fixture
def items(conflicts):
    return [item for row in Benchmark.load(conflicts).rows for item in row.items()]


def answers(loaded, items, size, contrasted=None):
    texts, clips = [], Clips(loaded.encoder)
    for start in range(0, len(items), size):
        part = clips.hear(items[start : start + size])
        batch, states = loaded.prompts(part), clips.states(part)
        texts += decode(loaded.model, loaded.tokenizer, batch, states, max_new_tokens=LENGTH, contrasted=contrasted)
    return texts


def step_by_step(loaded, item, alpha, negative):
    """Greedy search by whole forwards of one unpadded prompt per path, without a cache."""
    clips = Clips(loaded.encoder)
    states = clips.states(clips.hear([item]))
    batch = loaded.prompts([item])
    said = []
    for _ in range(LENGTH):
        now = extended(batch, said)
        z_pos = logits(loaded, loaded.model.embed(now, states))
        z_neg = logits(loaded, embed_without_audio(loaded.model, now, negative))
        token = int(contrast(z_pos, z_neg, alpha).argmax())
        if token == loaded.tokenizer.eos_token_id:
            break
        said.append(token)
    return loaded.tokenizer.decode(said, skip_special_tokens=True).strip()


def extended(batch, said):
    more = torch.tensor([said], dtype=torch.long)
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, more], 1),
        attention_mask=torch.ones(1, batch.input_ids.shape[1] + len(said), dtype=torch.long),
        audio_mask=torch.cat([batch.audio_mask, torch.zeros_like(more, dtype=torch.bool)], 1),
        labels=torch.cat([batch.labels, torch.full_like(more, -100)], 1),
    )


@torch.no_grad()
def logits(loaded, embedded):
    last = torch.tensor([embedded.attention_mask.shape[1] - 1])
    return loaded.model.head().logits(loaded.model.backbone(replace(embedded, answer_rows=last)))


@pytest.mark.parametrize("alpha", [None, 1.5])
def test_same_answers_whatever_the_batch_size(loaded, items, alpha):
    contrasted = alpha and Contrast(alpha, Negative.of("zero_mel", loaded.encoder))
    assert len({len(loaded.prompts([item]).input_ids[0]) for item in items}) > 2, "padding has to matter"
    alone = answers(loaded, items, 1, contrasted)
    assert len(set(alone)) > 3
    assert answers(loaded, items, 5, contrasted) == alone == answers(loaded, items, len(items), contrasted)


def test_alpha_zero_is_greedy_and_alpha_counts(loaded, items):
    negative = Negative.of("zero_mel", loaded.encoder)
    greedy = answers(loaded, items, 7)
    assert answers(loaded, items, 7, Contrast(0.0, negative)) == greedy
    assert answers(loaded, items, 7, Contrast(2.0, negative)) != greedy


@pytest.mark.parametrize("name", NEGATIVES)
def test_contrastive_decoding_equals_two_separate_passes(loaded, items, name):
    negative = Negative.of(name, loaded.encoder)
    chosen = items[:3] + items[-2:]
    batched = answers(loaded, chosen, len(chosen), Contrast(1.0, negative))
    assert batched == [step_by_step(loaded, item, 1.0, negative) for item in chosen]


def test_plausibility_keeps_only_what_the_positive_path_finds_likely():
    z_pos, z_neg = torch.tensor([[2.0, 1.9, -3.0]]), torch.tensor([[2.0, 1.0, -9.0]])
    both = torch.cat([z_pos, z_neg])
    free = ContrastiveLogits(2.0)(None, both)
    assert free.tolist() == [pytest.approx([2.0, 3.7, 9.0])] * 2
    kept = ContrastiveLogits(2.0, plausibility=0.1)(None, both)
    assert kept[0].argmax() == kept[1].argmax() == 1 and kept[0, 2] == -torch.inf
    assert ContrastiveLogits(2.0, plausibility=1.0)(None, both)[0].argmax() == 0
