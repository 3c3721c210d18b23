"""Load a causal LM of any family, or build one with random weights, and check it; its head and its longest input."""

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)

from caad_ds.loss.head import LMHead
from caad_ds.models.language_model.first_layers import cut_layers
from caad_ds.models.language_model.llm_checks import check_llm
from caad_ds.models.pretrained import pretrained
from caad_ds.utils.errors import UserError, first_line

# Names of the longest sequence in transformers configs; the first that exists counts.
POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions", "n_ctx")
# Types of rotary positions that are stretched for all lengths by one factor of the original positions.
STRETCHED = ("linear", "yarn", "llama3")


def load_llm(name: str, dtype: torch.dtype | str, keep_layers: int | None = None) -> PreTrainedModel:
    """Load a causal LM and check it.

    Args:
        name: a hub id or folder.
        dtype: of its weights; "auto" for its checkpoint's.
        keep_layers: keep only this many of its first layers.

    Raises:
        UserError: it does not exist, lacks weights, or `check_llm` refuses it.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        cut_layers(config, keep_layers, name)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"{name}: no causal LM there ({reason}); give a hub id or a folder") from error
    llm = pretrained(AutoModelForCausalLM, name, "causal LM", config=config, dtype=dtype)
    check_llm(llm, name)
    return llm


def build_llm(values: dict[str, Any], name: str, keep_layers: int | None = None) -> PreTrainedModel:
    """Build a causal LM with random weights in fp32 from the settings of its config, and check it.

    Raises:
        UserError: no model can be built from `values`, or `check_llm` refuses it.
    """
    try:
        config = AutoConfig.for_model(**values)
        config.dtype = None  # a published config has its weights' dtype; random weights are fp32
        cut_layers(config, keep_layers, name)
        llm = AutoModelForCausalLM.from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{name}: no model can be built of it: {reason}; change its settings") from error
    if not llm.get_input_embeddings().weight.is_meta:  # a meta model is only for shapes
        check_llm(llm, name)
    return llm


def position_limit(config: Any) -> int | None:
    """Return the most positions that a causal LM reads, by its config; None if the config has no limit.

    For `longrope` rotary positions (Phi-3) it is the original limit: a longer sample changes the frequencies of its
    whole batch, and the other samples' states would depend on it. For positions stretched by a fixed factor it is the
    stretched limit, even if the config has the original one (Qwen's YaRN).
    """
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    own = getattr(text, "original_max_position_embeddings", None)
    for scaling in (rope, *(part for part in rope.values() if isinstance(part, dict))):  # some have one per layer type
        original = scaling.get("original_max_position_embeddings", own)
        if scaling.get("rope_type") == "longrope" and original:
            return original
    limits = (getattr(text, name, None) for name in POSITION_NAMES)
    limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    if limit is not None and rope.get("rope_type") in STRETCHED:
        original, factor = rope.get("original_max_position_embeddings", own), rope.get("factor")
        return max(limit, int(original * factor)) if original and factor else limit
    return limit


def lm_head(llm: PreTrainedModel) -> LMHead:
    """Return the LM head: weight [V, H], bias, soft cap and constant factor.

    Under ZeRO-3 read it only inside a gathering context. A model without a `check_llm` is checked first.
    """
    form = getattr(llm, "_caad_head", None)
    if form is None:
        form = check_llm(llm, type(llm).__name__)
    layer = llm.get_output_embeddings()
    return LMHead(layer.weight, getattr(layer, "bias", None), form.softcap, form.scale)
