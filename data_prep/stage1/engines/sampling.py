"""Sampling in `generate` such that a row's text does not depend on the rows beside it."""

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise to each row's scores [B, V] from a generator of its own: the greedy choice then is a draw from
    softmax(scores) (the Gumbel-max trick).

    `generate` itself draws all rows from one generator, so that a row's draw depends on its place in the batch.
    """

    def __init__(self, seeds: list[int], device: torch.device):
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        noise = torch.empty_like(scores)
        for row, own in zip(noise, self.generators, strict=True):
            row.exponential_(generator=own)
        # -log of an exponential is Gumbel; above 0, or a token that top-p has ruled out (-inf) would become NaN.
        return scores - noise.clamp_min(torch.finfo(noise.dtype).tiny).log()


def sampler(temperature: float, top_p: float, seeds: list[int], device: torch.device) -> LogitsProcessorList:
    """What greedy search takes to sample: temperature, then top-p, then each row's noise."""
    warpers = [TemperatureLogitsWarper(temperature)]
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return LogitsProcessorList([*warpers, GumbelNoise(seeds, device)])
