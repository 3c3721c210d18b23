"""Hashes of model folders, and of the weights of loaded models."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.auto import local_folder
from caad_ds.models.speech_lm.encoder_folder import encoder_of
from caad_ds.utils.files import read_json

MODEL_FILES = (
    "config.json", "*.safetensors", "*.model", "*.jinja", "*token*.json", "*vocab*", "merges.txt", "*processor*.json",
    "tekken.json", "adapter_config.json", "chat_template.json",
)  # fmt: skip
PICKLED = "pytorch_model*.bin*"  # read if there is no safetensors file


def model_hash(model: str | Path) -> str:
    """Return the sha256 over files that affect a model's answers: config, weights, tokenizer, processor and encoder.

    `model` is a folder or a hub id, which has the hash of a copy of its files. An encoder given by hub id counts by
    name; of the generation config the end tokens count, if the LLM's config has others.
    """
    folder = local_folder(model)
    config = read_json(folder / "config.json", "give the folder of a model")
    digest = hashlib.sha256()
    if (generation := folder / "generation_config.json").is_file():
        ends = read_json(generation, "give a complete folder").get("eos_token_id")
        if ends != (config.get("llm_config") or {}).get("eos_token_id"):
            digest.update(f"eos_token_id:{ends};".encode())
    for name, path in _files(folder, config):
        digest.update(f"{name}:{path.stat().st_size};".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def file_states(model: str | Path) -> str:
    """Return the sha256 over names, sizes, inodes and times of change of a model's files, without reading weights.

    While it is the same, so is `model_hash`: a system call sets the time of change (ctime), never a program.
    """
    folder = local_folder(model)
    generation = folder / "generation_config.json"
    files = [*_files(folder, read_json(folder / "config.json", "give the folder of a model"))]
    if generation.is_file():
        files.append((Path(generation.name), generation))
    digest = hashlib.sha256()
    for name, path in files:
        state = path.stat()
        digest.update(f"{name}:{state.st_size},{state.st_ino},{state.st_mtime_ns},{state.st_ctime_ns};".encode())
    return digest.hexdigest()


def _files(folder: Path, config: Mapping[str, Any]) -> list[tuple[Path, Path]]:
    """List the files that `model_hash` reads, by their names in it."""
    files = {path.relative_to(folder): path for pattern in MODEL_FILES for path in folder.glob(pattern)}
    if not any(name.suffix == ".safetensors" for name in files):
        files |= {path.relative_to(folder): path for path in folder.glob(PICKLED)}
    encoder = Path(encoder_of(folder, config.get("encoder")))
    if encoder.is_dir() and encoder != folder:
        files |= {Path("encoder", path.name): path for path in encoder.iterdir()}
    elif encoder.is_file():
        files[Path("encoder")] = encoder
    return [(name, path) for name, path in sorted(files.items()) if path.is_file()]


def weights_hash(module: nn.Module) -> str:
    """Return the sha256 over a module's weights and their names."""
    return _hash(sorted(module.state_dict().items()))


def frozen_hash(student: AudioLM) -> str:
    """Return the sha256 over the weights that a student's checkpoint does not hold: its encoder's and frozen ones.

    Buffers that are saved but not trained, such as a tower's running means, are included.
    """
    frozen = [(name, p) for name, p in student.module.named_parameters() if not p.requires_grad]
    saved = student.module.state_dict()
    buffers = [(name, b) for name, b in student.module.named_buffers() if name in saved and b.is_floating_point()]
    return _hash([*student.tensors_outside(), *frozen, *buffers])


def start_hash(student: nn.Module) -> str:
    """Return the sha256 over the trainable weights before the first step."""
    return _hash((name, p) for name, p in student.named_parameters() if p.requires_grad)


def _hash(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype}".encode())
        # As bytes: numpy has no bfloat16, and float32 would double what is hashed of a large model.
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
