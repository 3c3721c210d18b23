"""Peak arithmetic and memory of devices, from the makers' data sheets."""

import re
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A device.

    Args:
        name: part of the name that CUDA gives it.
        bf16: dense peak in bf16, TFLOP/s.
        fp32: peak in fp32 without TF32, TFLOP/s; None: not known here.
        memory: GiB that PyTorch reports, a little below the maker's figure.
    """

    name: str
    bf16: float
    fp32: float | None
    memory: float


# By the name that `caad-ds plan --device` takes; a name that contains another comes first.
DEVICES = {
    "h100-pcie": Device("H100 PCIe", 756.0, 51.0, 79.1),
    "h100-nvl": Device("H100 NVL", 835.0, 60.0, 93.0),
    "h100": Device("H100", 989.4, 67.0, 79.1),
    "h200": Device("H200", 989.4, 67.0, 139.7),
    "gh200": Device("GH200", 989.4, 67.0, 94.5),
    "b200": Device("B200", 2250.0, None, 178.0),
    "a100-40gb": Device("A100-SXM4-40GB", 312.0, 19.5, 39.4),
    "a100": Device("A100", 312.0, 19.5, 79.1),
    "a800": Device("A800", 312.0, 19.5, 79.1),
    "a40": Device("A40", 149.7, 37.4, 44.4),
    "a6000": Device("A6000", 154.8, 38.7, 47.4),
    "a10": Device("A10", 125.0, 31.2, 22.0),
    "l40s": Device("L40S", 362.0, 91.6, 44.4),
    "l40": Device("L40", 181.0, 90.5, 44.4),
    "l4": Device("L4", 121.0, 30.3, 22.0),
    "rtx4090": Device("RTX 4090", 165.2, 82.6, 23.6),
    "rtx3090": Device("RTX 3090", 71.0, 35.6, 23.6),
}


def known_peak(name: str) -> float | None:
    """Look up the bf16 peak in TFLOP/s by CUDA's name of the device; None if unknown."""
    matching = (device for device in DEVICES.values() if re.search(rf"\b{device.name}\b", name))
    return next((device.bf16 for device in matching), None)
