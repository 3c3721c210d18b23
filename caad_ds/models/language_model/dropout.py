"""Turn off dropout, in modules and in the configs that forwards read."""

from copy import deepcopy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

RATE = "drop"  # in the name of every such number: attention_dropout, hidden_dropout_prob, encoder_layerdrop, ...


def turn_off_dropout(model: PreTrainedModel) -> None:
    """Set every dropout rate in a model to 0: results must not depend on the number of ranks.

    The model's own config, which is saved, stays as it is: the modules get a copy.
    """
    copies: dict[int, Any] = {}
    for part in model.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        _zero(vars(part))
        config = getattr(part, "config", None)
        if part is not model and isinstance(config, PreTrainedConfig):
            part.config = deepcopy(config, copies)  # type: ignore[assignment]
    for config in copies.values():
        if isinstance(config, PreTrainedConfig):
            _zero(vars(config))


def _zero(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if RATE in name and isinstance(value, (int, float)) and not isinstance(value, bool):
            values[name] = 0.0
