"""Hidden states of many sequences with common prefixes: each distinct prefix is run once and kept as keys and values.

There is no padding inside a sequence: cached prefixes end at the right edge, and continuations start there. So sliding
windows and position distances are the same as for each sequence by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from caad_ds.models.language_model.kv_cache import KeptLayer
from caad_ds.models.whisper_qformer.embedded_batch import positions
from caad_ds.models.whisper_qformer.llm_forward import hidden_states, takes_positions
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM

ATTENTION = {"full_attention", "sliding_attention"}
ALIBI = {"bloom", "mpt"}  # they use distances only, so need no positions
AT_ONCE = 256  # sequences per forward that continues cached prefixes

Ids = tuple[int, ...]  # token ids, or -1 - n for the n-th row of the audio embeddings


@dataclass(frozen=True)
class CachedPrefixes:
    """Keys and values of B prefixes, [B, heads, S, width] per layer; `mask` int64 [B, S], left-padded."""

    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor

    def cache(self, rows: Tensor) -> DynamicCache:
        """Return a new cache for the prefixes `rows`, which can grow."""
        return DynamicCache([(keys[rows], values[rows]) for keys, values in self.layers])


@dataclass(frozen=True)
class Level:
    """Result of one level: `hidden` [nodes, T, H] of right-padded segments.

    Sequence i passes through `node[i]`, whose segment spans positions `start[i]` to `end[i]` (exclusive). `cached`
    holds a prefix per node; None at the last level.
    """

    hidden: Tensor
    node: list[int]
    start: list[int]
    end: list[int]
    cached: CachedPrefixes | None


def can_share(llm: PreTrainedModel) -> bool:
    """Return whether the layers of `llm` keep only keys and values of a prefix, independent of their cache position."""
    kinds, _ = get_layer_types_and_kwargs(llm.config.get_text_config(decoder=True))
    relocatable = takes_positions(llm) or llm.config.model_type in ALIBI
    return relocatable and not llm._is_stateful and set(kinds) <= ATTENTION


@torch.no_grad()
def levels(
    model: SpeechLM, audio: Tensor, sequences: Sequence[Ids], cuts: Sequence[Sequence[int]], keep: bool = False
) -> Iterator[Level]:
    """Run sequences up to their cuts, level by level, each distinct prefix once.

    Args:
        audio: embeddings [n, E] of the audio positions.
        cuts: for each level the cut of every sequence, non-decreasing over levels; the last one is the sequence's end.
            Levels that extend no sequence are skipped.
        keep: whether to return the last level's keys and values.
    """
    cached: CachedPrefixes | None = None
    node, start = [0] * len(sequences), [0] * len(sequences)
    for number, ends in enumerate(cuts):
        if list(ends) == start:
            continue
        nodes: dict[tuple[Ids, int], int] = {}
        first: list[int] = []  # for each new node, a sequence that passes through it
        after = []
        for i, (sequence, end) in enumerate(zip(sequences, ends, strict=True)):
            new = nodes.setdefault((sequence[:end], start[i]), len(nodes))
            if new == len(first):
                first.append(i)
            after.append(new)
        segments = [sequences[i][start[i] : ends[i]] for i in first]
        parents = torch.tensor([node[i] for i in first], device=audio.device)
        wanted = keep or any(list(later) != list(ends) for later in cuts[number + 1 :])
        hidden, cached = _extended(model, audio, cached, parents, segments, wanted)
        yield Level(hidden, after, start, list(ends), cached)
        node, start = after, list(ends)


def common_length(sequences: Sequence[Ids]) -> int:
    """Return the length of the common prefix of all the sequences."""
    low, high = min(sequences), max(sequences)
    return next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def embedded(model: SpeechLM, audio: Tensor, ids: Tensor) -> Tensor:
    """Return the embeddings of `ids`, [..., E], as `SpeechLM.merge_audio` builds them."""
    tokens = model.get_input_embeddings()(ids.clamp_min(0))
    audio_rows = audio[(-1 - ids).clamp_min(0)] if len(audio) else tokens
    return torch.where((ids < 0).unsqueeze(-1), audio_rows.to(tokens.dtype), tokens)


def _extended(
    model: SpeechLM, audio: Tensor, cached: CachedPrefixes | None, parents: Tensor, segments: list[Ids], keep: bool
) -> tuple[Tensor, CachedPrefixes | None]:
    """Return hidden states [B, T, H] of segments after the prefixes `parents`, and with `keep` the longer prefixes."""
    length = max(map(len, segments))
    filler = next(token for segment in segments for token in segment)
    ids = torch.tensor([[*segment, *[filler] * (length - len(segment))] for segment in segments], device=audio.device)
    lengths = torch.tensor([len(segment) for segment in segments], device=audio.device)
    mask = (torch.arange(length, device=audio.device) < lengths[:, None]).long()
    if cached is not None:
        mask = torch.cat([cached.mask[parents], mask], dim=1)
    hidden, parts = [], []
    for begin in range(0, len(segments), AT_ONCE):
        here = slice(begin, begin + AT_ONCE)
        cache: Cache = DynamicCache()
        if cached is not None:
            # Keys and values are kept only if they are needed later, to save memory.
            cache = Cache([KeptLayer(*pair, parents[here], grows=keep) for pair in cached.layers])
        at = positions(mask[here])[:, -length:]
        hidden.append(hidden_states(model.llm, embedded(model, audio, ids[here]), mask[here], at, cache))
        if keep:
            parts.append([(layer.keys, layer.values) for layer in cast(list[KeptLayer], cache.layers)])
    joined = []
    for pairs in zip(*parts, strict=True):
        keys, values = zip(*pairs, strict=True)
        joined.append((torch.cat(keys), torch.cat(values)))
    return torch.cat(hidden), _left_padded(CachedPrefixes(joined, mask)) if keep else None


def _left_padded(cached: CachedPrefixes) -> CachedPrefixes:
    """Move the padding to the left, and trim it to the longest prefix."""
    if bool(cached.mask[:, -1].all()):
        return cached
    length = int(cached.mask.sum(1).max())
    order = cached.mask.argsort(dim=1, stable=True)[:, -length:]

    def moved(states: Tensor) -> Tensor:
        return states.gather(2, order[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))

    layers = [(moved(keys), moved(values)) for keys, values in cached.layers]
    return CachedPrefixes(layers, cached.mask.gather(1, order))
