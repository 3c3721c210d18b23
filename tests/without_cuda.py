"""Let torchaudio and torchvision of PyPI, which are CUDA builds, run beside a PyTorch without CUDA.

What the processors of audio LLMs use of both is Python. Their compiled parts need libraries of CUDA: without them
torchaudio fails to load its own, and torchvision to describe the operators that it has not got.
"""

from importlib.util import find_spec
from pathlib import Path

import torch

OPERATORS = """
if not _has_ops():  # added by tests/without_cuda.py
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    """Change the installed packages; a second time changes nothing."""
    if torch.version.cuda is not None:
        return
    for library in (folder("torchaudio") / "lib").glob("*.so"):
        library.unlink()
    file = folder("torchvision") / "extension.py"
    if OPERATORS not in file.read_text():
        file.write_text(file.read_text() + OPERATORS)


def folder(package: str) -> Path:
    """Where an installed package lies, without importing it."""
    found = find_spec(package)
    assert found is not None and found.origin is not None, f"{package} is not installed"
    return Path(found.origin).parent


if __name__ == "__main__":
    main()
