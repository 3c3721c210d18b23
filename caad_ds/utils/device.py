"""Pick the device that a command runs a model on."""

import platform

import torch

from caad_ds.utils.errors import UserError, first_line

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # by the names of run.precision


def pick_device(name: str | None) -> torch.device:
    """Return the device of that name, by default CUDA if there is one; UserError if it does not exist."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise UserError(f"--device {name}: not usable here ({reason}); use --device cpu") from error


def copied(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return the tensor on a device; a copy to the CPU is complete, one to a GPU may still be under way."""
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def device_name(device: torch.device) -> str:
    """Return a GPU's name or a CPU's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
