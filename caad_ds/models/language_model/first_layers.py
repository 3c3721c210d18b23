"""Keep the first layers of an existing language model."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel

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


def cut_layers(config: PreTrainedConfig, keep_layers: int | None, name: str) -> None:
    """Reduce a config to its first `keep_layers` layers; UserError if it has fewer."""
    if keep_layers is None:
        return
    have = getattr(config, "num_hidden_layers", None)
    if have is None:
        raise UserError(f"{name}: keep_layers: a config of type {config.model_type} names no number of layers")
    if keep_layers > have:
        raise UserError(f"{name}: keep_layers {keep_layers} exceeds its {have} layers; lower it")
    per_layer = {key: value for key, value in vars(config).items() if "layer" in key and isinstance(value, list)}
    config.num_hidden_layers = keep_layers
    for key, value in per_layer.items():  # layer_types, mlp_layer_types, ...
        if len(value) == have:
            setattr(config, key, value[:keep_layers])
