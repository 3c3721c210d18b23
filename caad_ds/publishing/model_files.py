"""The files of a model folder that belong to the model, checked before any of them leaves this machine."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from caad_ds.training.export import README
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json

WHOLE = "export or copy the model again"
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
TEXTS = (
    README, "LICENSE*", "NOTICE*", "config.json", "generation_config.json", "export.json", INDEX,
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tokenizer.model.v*", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tekken.json", "*.tiktoken", "spiece.model",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
)  # fmt: skip
CODE = ("*.py",)  # of a model that brings its own, which its config names under auto_map
BY_TYPE = {"qwen2_5_omni": ("spk_dict.pt",)}  # its voices, without which transformers loads no such model
FOLDERS = ("", "encoder/")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.npy", "*.npz")
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{20,}")
LARGEST_TEXT = 64 << 20  # bytes of a file in which secrets are looked for


@dataclass(frozen=True)
class ModelFiles:
    """What of a folder is pushed, each by its name in the folder and bytes, and why the rest is not."""

    sent: dict[str, int]
    left_out: dict[str, str]


def model_files(folder: Path) -> ModelFiles:
    """The files of a whole model; what does not belong to one is left out.

    UserError where it is not whole: a file that is half written, a config that does not parse, weights that are
    missing or cut. And where a file that would be pushed holds a token of the hub or a path of this machine.
    """
    config = read_json(folder / "config.json", WHOLE)
    if not isinstance(config.get("model_type"), str):
        raise UserError(f"{folder / 'config.json'}: it names no model_type; {WHOLE}")
    own = BY_TYPE.get(config["model_type"], ())
    patterns = TEXTS + WEIGHTS + own + (CODE if "auto_map" in config else ())
    sent, left_out = {}, {}
    for path in sorted(_files(folder)):
        name = path.relative_to(folder).as_posix()
        if any(part.endswith(".partial") for part in path.relative_to(folder.parent).parts):
            raise UserError(f"{path}: half written; wait until that is done, or {WHOLE}")
        if why := _why_not(name, path, patterns):
            left_out[name] = why
        else:
            sent[name] = path.stat().st_size
    _check_weights(folder, sent, "")
    # Our own family's encoder is beside it, unless it has a hub id or is among the model's own weights.
    elsewhere = config["model_type"] != "caad_speech_lm" or config.get("encoder") or config.get("encoder_config")
    if "encoder/config.json" in sent or not elsewhere:
        read_json(folder / "encoder/config.json", WHOLE)
        _check_weights(folder, sent, "encoder/")
    for name in sent:
        if name not in own and not name.endswith(".safetensors"):
            _check_text(folder / name)
    return ModelFiles(sent, left_out)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder; links and hidden folders as they stand, without what is below them."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _files(path)
        else:
            yield path


def _why_not(name: str, path: Path, patterns: tuple[str, ...]) -> str | None:
    """Why a file is not pushed; None where it is."""
    if any(part.startswith(".") for part in name.split("/")):
        return "hidden"
    if path.is_symlink():
        return "a link"
    if any(name.count("/") == full.count("/") and fnmatchcase(name, full) for full in _full(patterns)):
        return None
    pickled = any(fnmatchcase(name, pattern) for pattern in PICKLED)
    return "pickled, which can run code where it is loaded" if pickled else "no file of a model"


def _full(patterns: tuple[str, ...]) -> Iterator[str]:
    return (f"{folder}{pattern}" for folder in FOLDERS for pattern in patterns)


def _check_weights(folder: Path, sent: dict[str, int], below: str) -> None:
    """UserError unless the weights in a folder, or in its `below`, are all there and each file is whole."""
    shards = {name for name in sent if any(fnmatchcase(name, below + pattern) for pattern in WEIGHTS)}
    if not shards:
        raise UserError(
            f"{folder / below}: no {WEIGHTS[0]} there; pickled weights are not pushed: load the model and save it again"
        )
    stored = {name: _tensors(folder / name) for name in sorted(shards)}
    if below + INDEX in sent:
        wanted = read_json(folder / below / INDEX, WHOLE).get("weight_map", {})
        for tensor, file in wanted.items():
            if tensor not in stored.get(f"{below}{file}", ()):
                raise UserError(f"{folder / below / INDEX}: {tensor} is not in {file}; {WHOLE}")
    elif shards != {below + WEIGHTS[0]}:
        raise UserError(f"{folder / below}: weights in several files, and no {INDEX} beside them; {WHOLE}")


def _tensors(path: Path) -> set[str]:
    """The names of a file's tensors; its header says how long the file must be."""
    try:
        with safe_open(path, framework="numpy") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or cut ({' '.join(str(error).split()):.200}); {WHOLE}") from error


def _check_text(path: Path) -> None:
    """UserError where a file holds a token of the hub, or a path of this machine."""
    if path.stat().st_size > LARGEST_TEXT:
        raise UserError(f"{path}: too large for a file that holds no weights; move it away")
    data = path.read_bytes()
    if TOKEN.search(data):
        raise UserError(f"{path}: holds what looks like a token of the hub; remove it, and revoke the token")
    if path.name.endswith("config.json") and (local := next(_paths(_parsed(path, data)), None)):
        raise UserError(f"{path}: names {local}, which is on this machine alone; name a hub id there, or export again")


def _parsed(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); {WHOLE}") from error


def _paths(value: Any) -> Iterator[str]:
    """The absolute paths in a JSON value."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _paths(each)
    elif isinstance(value, str) and value.startswith("/") and len(value) < 4096 and Path(value).exists():
        yield value
