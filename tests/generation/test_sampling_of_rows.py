"""Rows of a batch with different sampling settings give the same tokens as in a batch with one setting."""

import pytest
import torch

from caad_ds.generation.sampling import PerItemSampling, Sampling

KEYS = ["a", "b", "c", "d", "e"]
HOT, COLD = Sampling(1.5, 0.9, seed=1), Sampling(0.7, top_k=3, seed=2)


@pytest.mark.parametrize("paths", [1, 2])
@pytest.mark.parametrize("each", [[HOT, None, COLD, HOT, COLD], [None] * 5, [HOT] * 5])
def test_each_row_is_drawn_as_alone(each, paths):
    torch.manual_seed(0)
    scores = torch.randn(5, 50).repeat(paths, 1)
    ids = torch.zeros(5 * paths, 4, dtype=torch.long)
    given = scores.clone()
    found = scores
    for processor in PerItemSampling(each).processors(KEYS, 9, prompt=2):
        found = processor(ids, found)
    for row, sampling in enumerate(each):
        alone = scores[row : row + 1]
        for processor in sampling.processors([KEYS[row]], 9, prompt=2) if sampling else []:
            alone = processor(ids[:1], alone)
        assert torch.equal(found[row::5], alone.repeat(paths, 1))
    assert torch.equal(scores, given), "the logits of `generate` are changed in place"
