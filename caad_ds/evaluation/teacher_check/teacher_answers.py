"""Greedy answers to a batch of prompts under several signals at once; common prefixes are run once."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, LogitsProcessor

from caad_ds.data.batch import Batch
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.teacher_check.contrast_signals import Paths, Signal
from caad_ds.evaluation.teacher_check.encoded_clips import EncodedClips
from caad_ds.evaluation.teacher_check.option_likelihoods import cuts
from caad_ds.evaluation.teacher_check.prefix_tree import embedded, levels
from caad_ds.generation.decoding import ContrastiveLogits, continued, without_placeholder
from caad_ds.generation.model import Model
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.whisper_qformer.embedded_batch import Embedded, positions


def answers(
    loaded: Model,
    items: Sequence[Item],
    encoded_clips: EncodedClips,
    signals: Sequence[Signal],
    negatives: Sequence[str],
    max_new_tokens: int,
) -> dict[Signal, list[str]]:
    """Return the items' greedy answers under z_pos and contrasts, in one batch of all the signals' paths.

    `encoded_clips` has encoded the items; `negatives` includes those of the signals.
    """
    needed = [negative for negative in negatives if negative in {signal.negative for signal in signals}]
    prefill = shared_prompts if encoded_clips.shares else whole_prompts
    path_of = {None: 0} | {negative: path for path, negative in enumerate(needed, 1)}
    paths = [path for signal in signals for path in {0: None, path_of[signal.negative]: None}]
    inputs, past = prefill(loaded, items, encoded_clips, needed, paths)
    processors = [_SignalLogits(signals, len(items)), *without_placeholder(loaded.lm, str(loaded.device))]
    tokens = continued(loaded.lm, inputs, processors, max_new_tokens, past=past)
    texts = [text.strip() for text in loaded.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    blocks = iter(range(0, len(texts), len(items)))
    found = {}
    for signal in signals:
        begin = next(blocks)
        found[signal] = texts[begin : begin + len(items)]
        if signal.negative is not None:
            next(blocks)  # its second path has the same answers
    return found


class _SignalLogits(LogitsProcessor):
    """Signal by signal, z_pos for `items` rows, or z_c for the rows with audio and for those with the negative."""

    def __init__(self, signals: Sequence[Signal], items: int):
        self._sizes = [items if signal.negative is None else 2 * items for signal in signals]
        self._signals = signals

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        parts = zip(self._signals, scores.split(self._sizes), strict=True)
        return torch.cat([z if s.alpha is None else ContrastiveLogits(s.alpha)(input_ids, z) for s, z in parts])


@torch.no_grad()
def shared_prompts(
    loaded: Model, items: Sequence[Item], encoded_clips: EncodedClips, negatives: Sequence[str], paths: Sequence[int]
) -> tuple[dict[str, Any], Cache | None]:
    """Return the items' prompts on each of `paths`, path by path, and the keys and values of all but their last
    position; common prefixes are run once."""
    prompt_paths = Paths(loaded, items, encoded_clips, negatives)
    prompts = [
        prompt for of_path in prompt_paths.prompts(prompt_paths.encoded([None] * len(items))) for prompt in of_path
    ]
    groups = [(path, item.id) for path in range(len(prompt_paths)) for item in items]
    # Without the last position, whose logits decoding starts from.
    prefixes = [prompt[:-1] for prompt in prompts]
    for level in levels(prompt_paths.model, prompt_paths.audio, prefixes, cuts(prefixes, groups), keep=True):
        last = level
    cached = last.cached
    assert cached is not None
    order = [path * len(items) + k for path in paths for k in range(len(items))]
    rows = torch.tensor([last.node[i] for i in order], device=prompt_paths.audio.device)
    ends = torch.tensor([[prompts[i][-1]] for i in order], device=prompt_paths.audio.device)
    mask = F.pad(cached.mask[rows], (0, 1), value=1)
    final = embedded(prompt_paths.model, prompt_paths.audio, ends)
    embeds = torch.cat([final.new_zeros(len(order), mask.shape[1] - 1, final.shape[-1]), final], dim=1)
    assert isinstance(loaded.lm, SpeechAudioLM)
    return loaded.lm.of_embedded(Embedded(embeds, mask, positions(mask), rows[:0])), cached.cache(rows)


@torch.no_grad()
def whole_prompts(
    loaded: Model, items: Sequence[Item], encoded_clips: EncodedClips, negatives: Sequence[str], paths: Sequence[int]
) -> tuple[dict[str, Any], Cache | None]:
    """Return the same for any model, without cached keys and values."""
    batch = encoded_clips.clips.prompts(items)
    batches = [batch, *(encoded_clips.clips.negative(items, batch, negative) for negative in negatives)]
    return loaded.lm.generation_inputs(Batch.cat([batches[path] for path in paths], pad="left")), None
