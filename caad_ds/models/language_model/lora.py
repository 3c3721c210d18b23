"""PEFT's low-rank adapters on the language model's linear layers, injected so the model keeps its interface.

PEFT takes 2 s to import, so it is imported only if a model has adapters.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from caad_ds.utils.errors import UserError, first_line


def inject(llm: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Add new adapters to `llm` in place; their output is 0 until they are trained.

    `settings` as in LoraSection. UserError if no layer has a name in `targets`, or if they name the head: loss and
    option likelihoods use only its weight.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=settings["targets"],
    )
    try:
        inject_adapter_in_model(config, llm)
    except ValueError as error:
        reason = first_line(error).partition(". ")[0]
        linear = sorted({name.rpartition(".")[2] for name, part in llm.named_modules() if isinstance(part, nn.Linear)})
        raise UserError(
            f"student.lora.targets {settings['targets']}: {reason}; name linear layers of the LLM ({', '.join(linear)})"
        ) from error
    check_targets(llm, settings["targets"])
    check_head(llm, settings["targets"])


def check_targets(llm: PreTrainedModel, targets: Any) -> None:
    """Raise UserError for a name among `targets` that no layer with adapters has."""
    from peft.tuners.lora import LoraLayer

    adapted = [f".{name}" for name, layer in llm.named_modules() if isinstance(layer, LoraLayer)]
    for target in [] if isinstance(targets, str) else targets:
        if not any(name.endswith(f".{target}") for name in adapted):
            raise UserError(f"student.lora.targets {targets}: no layer of the LLM is named {target!r}; correct it")


def check_head(llm: PreTrainedModel, targets: Any) -> None:
    """Raise UserError if `targets` put adapters on the head, or on embeddings tied to it."""
    from peft.tuners.lora import LoraLayer

    head = llm.get_output_embeddings()
    if head is None:  # an encoder, or a language model without its head
        return
    table = llm.get_input_embeddings()
    if isinstance(head, LoraLayer) or (isinstance(table, LoraLayer) and table.weight is head.weight):
        raise UserError(
            f"student.lora.targets {targets}: they name the LLM's head, which takes no adapters (tied embeddings are "
            "its weight); name other layers"
        )


def merge(llm: nn.Module) -> None:
    """Merge every adapter into its weight, in place; no adapter is left."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(llm.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            llm.set_submodule(name, layer.get_base_layer())


def merge_stored(model: PreTrainedModel, folder: Path) -> None:
    """Merge the adapters beside a model's whole weights (adapter_model.safetensors) into them, in place.

    UserError if they do not fit the model, or are not LoRA adapters of existing weights.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    remedy = "take the files of the model, or merge the adapters yourself"
    names_of_files = getattr(model, "_weight_conversions", None)
    try:
        report = model.load_adapter(str(folder), use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = first_line(error)
        raise UserError(f"{folder}: its adapters do not load ({reason}); {remedy}") from error
    for what in ("missing", "unexpected", "mismatched"):
        if names := sorted(map(str, getattr(report, f"{what}_keys"))):
            raise UserError(f"{folder}: {len(names)} weights of its adapters are {what} ({names[0]}, ...); {remedy}")
    merge(model)
    if any(isinstance(part, (BaseTunerLayer, AuxiliaryTrainingWrapper)) for part in model.modules()):
        raise UserError(f"{folder}: its adapters are not LoRA alone, and cannot be merged; {remedy}")
    model._hf_peft_config_loaded = False
    del model.peft_config
    model._weight_conversions = names_of_files  # type: ignore[assignment]  # else it would be saved under the adapters' names


def save_peft(folder: Path, model: PreTrainedModel, settings: dict[str, Any], beside: str) -> None:
    """Write a model's adapters with these `settings` as a PEFT folder, based on the model's name.

    `beside` names the part that was fully trained; its weights are written too.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=[name for name, part in model.named_modules() if isinstance(part, LoraLayer)],
        modules_to_save=[beside],
        base_model_name_or_path=model.name_or_path,
    )
    weights = {}
    for name, weight in model.state_dict().items():
        part = name.removeprefix(f"{beside}.")
        weights[f"base_model.model.{name if part == name else f'{beside}.modules_to_save.default.{part}'}"] = weight
    with torch.device("meta"):  # only for its names
        whole = get_peft_model(type(model)(deepcopy(model.config)), config)
    whole.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
