"""A causal LM of any family, run from embeddings to final hidden states."""

import inspect
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel


def embedding_width(llm: PreTrainedModel) -> int:
    """Return the width of the token embeddings, which may differ from the hidden states' (OPT)."""
    return token_embeddings(llm).shape[-1]


def token_embeddings(llm: PreTrainedModel) -> Tensor:
    """Return the token embeddings [V, E]."""
    return cast(Tensor, llm.get_input_embeddings().weight)


def accepted(module: torch.nn.Module, **arguments: Any) -> dict[str, Any]:
    """Return the arguments that the forward of `module` accepts; not every family takes positions."""
    names = inspect.signature(module.forward).parameters
    return {name: value for name, value in arguments.items() if name in names}


def hidden_states(
    llm: PreTrainedModel, embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, past: Cache | None = None
) -> Tensor:
    """Return the final hidden states [B, S, H], after the last norm, of token embeddings [B, S, E].

    `past` holds the keys and values of a prefix; if it is empty, it is filled.
    """
    body = lm_body(llm)
    cache = {} if past is None else {"past_key_values": past}
    more = accepted(body, position_ids=position_ids, use_cache=past is not None) | cache
    return body(inputs_embeds=embeds, attention_mask=attention_mask, **more).last_hidden_state


def takes_positions(llm: PreTrainedModel) -> bool:
    """Return whether the model accepts positions; others compute them from the mask or the index."""
    return bool(accepted(lm_body(llm), position_ids=None))


def lm_body(llm: PreTrainedModel) -> PreTrainedModel:
    """Return the model without its head."""
    return getattr(llm, "model", llm) if llm.base_model is llm else cast(PreTrainedModel, llm.base_model)
