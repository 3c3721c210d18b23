"""Select the files of a model folder that belong to the model, and check them before they are uploaded."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError, safe_open

from caad_ds.publishing.leaks import check_text
from caad_ds.publishing.own_code import own_code
from caad_ds.training.export import ORIGIN, README
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json

REMEDY = "export or copy the model again"
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
TERMS = tuple(f"{name}{end}" for name in ("LICENSE", "LICENCE", "NOTICE") for end in ("", ".md", ".txt"))
TEXTS = (
    README, *TERMS, "config.json", "generation_config.json", ORIGIN, INDEX,
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tokenizer.model.v*", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tekken.json", "*.tiktoken", "spiece.model",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
)  # fmt: skip
BY_TYPE = {"qwen2_5_omni": ("spk_dict.pt",)}  # its voices; transformers does not load the model without them
FOLDERS = ("", "encoder/")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.npy", "*.npz")


@dataclass(frozen=True)
class ModelFiles:
    """The files that are pushed, size in bytes by name in the folder, and the reason for each file left out."""

    sent: dict[str, int]
    left_out: dict[str, str]


def model_files(folder: Path) -> ModelFiles:
    """Return the files of a complete model; files that do not belong to it are left out.

    Raises UserError if the model is incomplete (a partly written file, a config that does not parse, missing or
    truncated weights), or if a file to be pushed holds a secret or a path of this machine.
    """
    config = read_json(folder / "config.json", REMEDY)
    if not isinstance(config.get("model_type"), str):
        raise UserError(f"{folder / 'config.json'}: it names no model_type; {REMEDY}")
    own = BY_TYPE.get(config["model_type"], ())
    patterns, code = TEXTS + WEIGHTS + own, own_code(folder)
    sent: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for path in sorted(_files(folder)):
        name = path.relative_to(folder).as_posix()
        if any(part.endswith(".partial") for part in path.relative_to(folder.parent).parts):
            raise UserError(f"{path}: half written; wait until that is done, or {REMEDY}")
        if why := _exclusion_reason(name, path, patterns, code):
            left_out[name] = why
        else:
            sent[name] = path.stat().st_size
    if links := sorted(code & left_out.keys()):
        raise UserError(f"{folder / links[0]}: {left_out[links[0]]}, and the model needs it; copy the file there")
    for prefix in FOLDERS:
        for name in _unindexed_shards(folder, sent, prefix):
            del sent[name]
            left_out[name] = f"not named by {prefix}{INDEX}"
    _check_weights(folder, sent, "")
    # caad_speech_lm keeps its encoder in encoder/, unless it has a hub id or is part of the model's own weights.
    elsewhere = config["model_type"] != "caad_speech_lm" or config.get("encoder") or config.get("encoder_config")
    if "encoder/config.json" in sent or not elsewhere:
        read_json(folder / "encoder/config.json", REMEDY)
        _check_weights(folder, sent, "encoder/")
    for name in sent:
        if name not in own and not name.endswith(".safetensors"):
            check_text(folder / name)
    return ModelFiles(sent, left_out)


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder; links and hidden folders are yielded as they are, not entered."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _files(path)
        else:
            yield path


def _exclusion_reason(name: str, path: Path, patterns: tuple[str, ...], code: Set[str]) -> str | None:
    """Return why a file is not pushed; None if it is."""
    if any(part.startswith(".") for part in name.split("/")):
        return "hidden"
    if path.is_symlink():
        return "a link"
    if not path.is_file():
        return "no regular file"
    if name in code or any(name.count("/") == full.count("/") and fnmatchcase(name, full) for full in _full(patterns)):
        return None
    if name.endswith(".py"):
        return "code that no auto_map names"
    pickled = any(fnmatchcase(name, pattern) for pattern in PICKLED)
    return "pickled, which can run code where it is loaded" if pickled else "no file of a model"


def _full(patterns: tuple[str, ...]) -> Iterator[str]:
    return (f"{folder}{pattern}" for folder in FOLDERS for pattern in patterns)


def _unindexed_shards(folder: Path, sent: dict[str, int], prefix: str) -> list[str]:
    """Return the weight shards under a prefix ("" or "encoder/") that its index does not name.

    Raises UserError if unsharded weights lie beside an index that does not name them: either could be the model.
    """
    if prefix + INDEX not in sent:
        return []
    named = {prefix + file for file in _weight_map(folder / prefix).values()}
    found = [name for name in sent if name.startswith(prefix) and name.endswith(".safetensors") and name not in named]
    found = [name for name in found if "/" not in name.removeprefix(prefix)]
    if prefix + WEIGHTS[0] in found:
        raise UserError(
            f"{folder / prefix}: {WEIGHTS[0]} is there, and an {INDEX} that does not name it; move away what is not "
            "the model's"
        )
    return found


def _weight_map(folder: Path) -> dict[str, str]:
    """Return the file of each tensor from the folder's index."""
    found = read_json(folder / INDEX, REMEDY).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise UserError(f"{folder / INDEX}: it names no files of tensors (weight_map); {REMEDY}")
    return found


def _check_weights(folder: Path, sent: dict[str, int], prefix: str) -> None:
    """Raise UserError unless the weights under a prefix ("" or "encoder/") are complete and no file is truncated."""
    shards = {name for name in sent if any(fnmatchcase(name, prefix + pattern) for pattern in WEIGHTS)}
    indexed = _weight_map(folder / prefix) if prefix + INDEX in sent else {}
    if not shards and not indexed:
        raise UserError(
            f"{folder / prefix}: no {WEIGHTS[0]} there; pickled weights are not pushed: load the model and "
            "save it again"
        )
    stored = {name: _tensors(folder / name) for name in sorted(shards)}
    for tensor, file in indexed.items():
        if tensor not in stored.get(f"{prefix}{file}", ()):
            raise UserError(f"{folder / prefix / INDEX}: {tensor} is not in {file}; {REMEDY}")
    if not indexed and shards != {prefix + WEIGHTS[0]}:
        raise UserError(f"{folder / prefix}: weights in several files, and no {INDEX} beside them; {REMEDY}")


def _tensors(path: Path) -> set[str]:
    """Return the names of a file's tensors; opening it checks the length that its header states."""
    try:
        with safe_open(path, framework="numpy") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or cut ({' '.join(str(error).split()):.200}); {REMEDY}") from error
