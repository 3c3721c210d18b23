"""Keep the first layers of an existing language model."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from caad_ds.models.language_model.load_llm import cut_layers
from caad_ds.utils.errors import UserError


def keep_first_layers(model: PreTrainedModel, configs: Sequence[PreTrainedConfig], layers: int) -> None:
    """Keep only a language model's first `layers` layers, and adapt its configs.

    A student that starts from these keeps the teacher's encoder and embedding space, and relearns the other layers.
    """
    have = model.config.num_hidden_layers
    for config in {id(c): c for c in (*configs, model.config)}.values():
        cut_layers(config, layers, "student.path")
    decoder = model.get_decoder()  # for OPT, a part of the base model
    lists = {name: child for name, child in decoder.named_children() if isinstance(child, torch.nn.ModuleList)}
    per_layer = {name: child for name, child in lists.items() if len(child) == have}
    if not per_layer:
        raise UserError(f"student.keep_layers: no layers found in {type(decoder).__name__}; build a student from llm")
    for name, child in per_layer.items():
        setattr(decoder, name, child[:layers])
