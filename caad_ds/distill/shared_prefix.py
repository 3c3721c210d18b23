"""Cache the KV of the constant prefix of the teacher's path without audio."""

from collections import OrderedDict

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from caad_ds.data.batch import IGNORE, Batch
from caad_ds.models.language_model.kv_cache import KeptLayer
from caad_ds.models.whisper_qformer.embedded_batch import Embedded
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError

KEPT = 8  # a corpus has one system prompt, or a few
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


class KeptPrefixes:
    """Keys and values of prefixes that all samples of a batch share, for a frozen model and one negative.

    A window without sound has a constant encoding: with the same template and system prompt, the negative path is the
    same up to the end of its first audio. The last `KEPT` prefixes are kept. UserError if the layers of `llm` have
    state other than keys and values.
    """

    def __init__(self, llm: PreTrainedModel) -> None:
        config = llm.config
        others = sorted(set(getattr(config, "layer_types", None) or ()) - ATTENTION)
        if others or llm._is_stateful:  # RWKV and xLSTM configs name no layer types
            kinds = ", ".join(others) or "a state"
            raise UserError(f"teacher.keep_prefix: {config.model_type} has layers of {kinds}; set it to false")
        self._kept: OrderedDict[tuple[int, ...], Cache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def hidden_states(self, model: SpeechLM, embedded: Embedded, prefix: Tensor) -> Tensor:
        """Return `model.hidden_states(embedded)` of samples that all begin with the tokens `prefix` [P]."""
        key = tuple(prefix.tolist())
        if key not in self._kept:
            self._kept[key] = _keys_and_values(model, embedded.first(len(key)))
        self._kept.move_to_end(key)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return model.hidden_states(embedded.after(len(key)), self._kept[key])


def shared_prefix(batch: Batch) -> int:
    """Return the length of the samples' common prefix, up to the end of the first audio; 0 if they differ before that.

    It is also 0 if the last of these positions predicts an answer's first token.
    """
    ids, audio = batch.input_ids, batch.audio_mask
    same = (ids == ids[0]).all(0) & (audio == audio[0]).all(0) & batch.attention_mask.bool().all(0)
    same &= (batch.labels.roll(-1, dims=1) == IGNORE).all(0)
    common, begin, heard = torch.stack([same.cumprod(0).sum(), audio[0].int().argmax(), audio[0].any()]).tolist()
    if not heard:
        return 0
    end = begin + int(batch.audio_positions[0])
    return end if end <= common else 0


def _keys_and_values(model: SpeechLM, embedded: Embedded) -> Cache:
    cache = DynamicCache()
    model.hidden_states(embedded, cache)
    return Cache([KeptLayer(layer.keys, layer.values) for layer in cache.layers])  # type: ignore[union-attr, arg-type]
