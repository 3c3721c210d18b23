"""Greedy answers to a batch of prompts under several signals at once: what each signal does not change is run once."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, LogitsProcessor

from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.teacher_check.option_likelihoods import cuts
from caad_ds.evaluation.teacher_check.prefix_tree import can_share, embedded, levels
from caad_ds.evaluation.teacher_check.signals import Paths, Signal
from caad_ds.generation.decoding import ContrastiveLogits, continued
from caad_ds.generation.model import Model
from caad_ds.models.negatives import Negative, embed_without_audio
from caad_ds.models.speech_lm.embed import merge_audio
from caad_ds.models.whisper_qformer.embedded_batch import Embedded, positions
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM


def answers(
    loaded: Model,
    items: Sequence[Item],
    outputs: Tensor,
    signals: Sequence[Signal],
    negatives: Sequence[Negative],
    max_new_tokens: int,
) -> dict[Signal, list[str]]:
    """The items' greedy answers under z_pos and contrasts, in one batch of all the signals' paths.

    `outputs` [U, K, E] are the connector's, of the different clips of the items; `negatives` holds those of the
    signals.
    """
    needed = [negative for negative in negatives if negative.name in {signal.negative for signal in signals}]
    prefill = shared_prompts if can_share(loaded.model.llm) else whole_prompts
    of_path = {None: 0} | {negative.name: place for place, negative in enumerate(needed, 1)}
    paths = [path for signal in signals for path in {0: None, of_path[signal.negative]: None}]
    prompts, past = prefill(loaded, items, outputs, needed, paths)
    tokens = continued(
        loaded.model, loaded.tokenizer, prompts, [_Together(signals, len(items))], max_new_tokens, past=past
    )
    texts = [text.strip() for text in loaded.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    blocks = iter(range(0, len(texts), len(items)))
    found = {}
    for signal in signals:
        begin = next(blocks)
        found[signal] = texts[begin : begin + len(items)]
        if signal.negative is not None:
            next(blocks)  # its second path, which says the same
    return found


class _Together(LogitsProcessor):
    """z_pos for `items` rows, or z_c for as many and for those of their negative, signal by signal."""

    def __init__(self, signals: Sequence[Signal], items: int):
        self._sizes = [items if signal.negative is None else 2 * items for signal in signals]
        self._signals = signals

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        parts = zip(self._signals, scores.split(self._sizes), strict=True)
        return torch.cat([z if s.alpha is None else ContrastiveLogits(s.alpha)(input_ids, z) for s, z in parts])


@torch.no_grad()
def shared_prompts(
    loaded: Model, items: Sequence[Item], outputs: Tensor, negatives: Sequence[Negative], paths: Sequence[int]
) -> tuple[Embedded, Cache | None]:
    """The prompts of the items on each of `paths`, one path after another, and keys and values of all but their last
    position; what prompts have in common is run once."""
    found = Paths(loaded, items, outputs, negatives)
    prompts = [prompt for each in found.prompts(found.encoded([None] * len(items))) for prompt in each]
    groups = [(path, item.id) for path in range(len(found)) for item in items]
    # The last position is left: its logits are what decoding begins with.
    beginnings = [prompt[:-1] for prompt in prompts]
    for level in levels(loaded.model, found.audio, beginnings, cuts(beginnings, groups), keep=True):
        last = level
    held = last.held
    assert held is not None
    order = [path * len(items) + k for path in paths for k in range(len(items))]
    rows = torch.tensor([last.node[i] for i in order], device=outputs.device)
    ends = torch.tensor([[prompts[i][-1]] for i in order], device=outputs.device)
    mask = F.pad(held.mask[rows], (0, 1), value=1)
    final = embedded(loaded.model, found.audio, ends)
    embeds = torch.cat([final.new_zeros(len(order), mask.shape[1] - 1, final.shape[-1]), final], dim=1)
    return Embedded(embeds, mask, positions(mask), rows[:0]), held.cache(rows)


@torch.no_grad()
def whole_prompts(
    loaded: Model, items: Sequence[Item], outputs: Tensor, negatives: Sequence[Negative], paths: Sequence[int]
) -> tuple[Embedded, Cache | None]:
    """The same for any LLM, nothing of it run yet."""
    model: SpeechLM = loaded.model
    batch = loaded.prompts(items)
    every = [merge_audio(model, batch, outputs[batch.audio_index])]
    every += [embed_without_audio(model, batch, negative) for negative in negatives]
    together = every[paths[0]]
    for path in paths[1:]:
        together = Embedded.cat(together, every[path])
    return together, None
