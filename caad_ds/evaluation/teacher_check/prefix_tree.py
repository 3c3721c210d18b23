"""Hidden states of many sequences that begin alike: each distinct beginning is run once, and kept as keys and values.

Nothing is hidden in the middle of a sequence: what is known of a sequence ends at the right edge, and what follows
begins there. So sliding windows and distances between positions are those of the sequence by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from caad_ds.models.language_model.kv_cache import KeptLayer
from caad_ds.models.whisper_qformer.causal_lm import hidden_states, takes_positions
from caad_ds.models.whisper_qformer.embedded_batch import positions
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM

ATTENTION = {"full_attention", "sliding_attention"}
ALIBI = {"bloom", "mpt"}  # of distances alone, so that they need no positions
AT_ONCE = 256  # sequences whose keys and values are joined with those of their beginning at a time

Ids = tuple[int, ...]  # a token's id, or -1 - n for the n-th row of the audio's embeddings


@dataclass(frozen=True)
class Held:
    """Keys and values of B beginnings, [B, heads, S, width] for each layer; `mask` int64 [B, S], padded on the left."""

    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor

    def cache(self, rows: Tensor) -> DynamicCache:
        """A cache of its own for the beginnings `rows`, which grows."""
        return DynamicCache([(keys[rows], values[rows]) for keys, values in self.layers])


@dataclass(frozen=True)
class Level:
    """What one level has run: `hidden` [nodes, T, H] of segments padded on the right.

    Sequence i went through `node[i]`, whose segment begins at position `start[i]` and ends before `end[i]`. `held` has
    a beginning per node, None at the last level.
    """

    hidden: Tensor
    node: list[int]
    start: list[int]
    end: list[int]
    held: Held | None


def can_share(llm: PreTrainedModel) -> bool:
    """Whether all that the layers of `llm` keep of a beginning is keys and values, whatever their place in a cache."""
    kinds, _ = get_layer_types_and_kwargs(llm.config.get_text_config(decoder=True))
    placed = takes_positions(llm) or llm.config.model_type in ALIBI
    return placed and not llm._is_stateful and set(kinds) <= ATTENTION


@torch.no_grad()
def levels(
    model: SpeechLM, audio: Tensor, sequences: Sequence[Ids], cuts: Sequence[Sequence[int]], keep: bool = False
) -> Iterator[Level]:
    """Run sequences up to their cuts, level by level, each distinct beginning once.

    Args:
        audio: embeddings [n, E] that stand at audio positions.
        cuts: for each level where every sequence is cut, not before its cut at the level above; the last one is where
            it ends. A level at which no sequence is continued is left out.
        keep: whether the last level's keys and values are wanted.
    """
    held: Held | None = None
    node, start = [0] * len(sequences), [0] * len(sequences)
    for number, ends in enumerate(cuts):
        if list(ends) == start:
            continue
        places: dict[tuple[Ids, int], int] = {}
        first: list[int] = []  # of each new node, a sequence that goes through it
        after = []
        for i, (sequence, end) in enumerate(zip(sequences, ends, strict=True)):
            place = places.setdefault((sequence[:end], start[i]), len(places))
            if place == len(first):
                first.append(i)
            after.append(place)
        segments = [sequences[i][start[i] : ends[i]] for i in first]
        parents = torch.tensor([node[i] for i in first], device=audio.device)
        wanted = keep or any(list(later) != list(ends) for later in cuts[number + 1 :])
        hidden, held = _extended(model, audio, held, parents, segments, wanted)
        yield Level(hidden, after, start, list(ends), held)
        node, start = after, list(ends)


def common_length(sequences: Sequence[Ids]) -> int:
    """How many positions all the sequences have in common from the first on."""
    low, high = min(sequences), max(sequences)
    return next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def embedded(model: SpeechLM, audio: Tensor, ids: Tensor) -> Tensor:
    """The embeddings of `ids`, [..., E], as `SpeechLM.merge_audio` puts them together."""
    tokens = model.get_input_embeddings()(ids.clamp_min(0))
    heard = audio[(-1 - ids).clamp_min(0)] if len(audio) else tokens
    return torch.where((ids < 0).unsqueeze(-1), heard.to(tokens.dtype), tokens)


def _extended(
    model: SpeechLM, audio: Tensor, held: Held | None, parents: Tensor, segments: list[Ids], keep: bool
) -> tuple[Tensor, Held | None]:
    """Hidden states [B, T, H] of segments after the beginnings `parents`, and both together if they are to be kept."""
    length = max(map(len, segments))
    filler = next(token for segment in segments for token in segment)
    ids = torch.tensor([[*segment, *[filler] * (length - len(segment))] for segment in segments], device=audio.device)
    lengths = torch.tensor([len(segment) for segment in segments], device=audio.device)
    mask = (torch.arange(length, device=audio.device) < lengths[:, None]).long()
    if held is not None:
        mask = torch.cat([held.mask[parents], mask], dim=1)
    hidden, parts = [], []
    for begin in range(0, len(segments), AT_ONCE):
        here = slice(begin, begin + AT_ONCE)
        cache: Cache = DynamicCache()
        if held is not None:
            # What follows is kept only where it is continued: all layers together would take much memory.
            cache = Cache([KeptLayer(*pair, parents[here], grows=keep) for pair in held.layers])
        at = positions(mask[here])[:, -length:]
        hidden.append(hidden_states(model.llm, embedded(model, audio, ids[here]), mask[here], at, cache))
        if keep:
            parts.append([(layer.keys, layer.values) for layer in cast(list[KeptLayer], cache.layers)])
    joined = []
    for pairs in zip(*parts, strict=True):
        keys, values = zip(*pairs, strict=True)
        joined.append((torch.cat(keys), torch.cat(values)))
    return torch.cat(hidden), _at_right_edge(Held(joined, mask)) if keep else None


def _at_right_edge(held: Held) -> Held:
    """The same with the padding moved to the left, and no more of it than the longest needs."""
    if bool(held.mask[:, -1].all()):
        return held
    length = int(held.mask.sum(1).max())
    order = held.mask.argsort(dim=1, stable=True)[:, -length:]

    def moved(states: Tensor) -> Tensor:
        return states.gather(2, order[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))

    return Held([(moved(keys), moved(values)) for keys, values in held.layers], held.mask.gather(1, order))
