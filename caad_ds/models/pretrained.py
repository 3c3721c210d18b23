"""Load pretrained weights: missing or broken ones are reported, never initialized at random."""

from pathlib import Path
from typing import Any

from caad_ds.utils.errors import UserError, first_line
from caad_ds.utils.model_names import check_hub_or_folder


def pretrained(cls: Any, name: str | Path, what: str, apart: tuple[str, ...] | None = None, **kwargs: Any) -> Any:
    """Call `cls.from_pretrained(name, **kwargs)`; UserError if it does not load or lacks weights of the model.

    `what` names the kind of model in the message. If `apart` names the parts of a checkpoint that are not read, layers
    that the config does not have are refused as well.
    """
    check_hub_or_folder(str(name), what)
    try:
        # Weights that do not fit are reported in the errors below.
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = cls.from_pretrained(name, **options, trust_remote_code=False, **kwargs)
    except Exception as error:  # those of broken files and of the hub's HTTP library have no common base class
        reason = first_line(error)
        raise UserError(f"{name}: no {what} that loads ({reason}); give a hub id or a folder that holds one") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{name}: it lacks {len(missing)} weights of the {what} ({missing[0]}, ...); give a whole one")
    layers = [] if apart is None else [weight for weight in report["unexpected_keys"] if ".layers." in weight]
    if left := sorted(weight for weight in layers if not weight.startswith(apart or ())):
        raise UserError(
            f"{name}: its config names fewer layers than its weights have ({left[0]}, ...); take the config of these "
            "weights, or cut layers by student.keep_layers"
        )
    if wrong := sorted(report["mismatched_keys"]):
        weight, stored, expected = wrong[0]
        raise UserError(
            f"{name}: its weight {weight} has the shape {tuple(stored)}, and its config asks for {tuple(expected)}; "
            "take the config of these weights"
        )
    return model
