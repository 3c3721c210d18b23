"""The models that a run starts from and distils from, as a model card names them: without paths, with licences."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import ModelCard, constants, try_to_load_from_cache

from caad_ds.config.schema import Config
from caad_ds.models.architecture import is_architecture
from caad_ds.models.origin_names import NAME, is_valid_id, names_hub
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from caad_ds.utils.model_names import is_hub_id, run_name

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")  # as the hub spells its identifiers
HUB = "https://huggingface.co"
UNKNOWN = "unknown"  # the hub's identifier if no licence is given


@dataclass(frozen=True)
class Base:
    """A model that the run starts from (`student`, `LLM`, `encoder`) or distils from (`teacher`).

    `name` is a hub id or a folder's name; `hub_id` the id if there is one: for a folder, the one in its config.
    `random`: built from an architecture with random weights. `licence` is the identifier in the base's front matter,
    with the name and link given there; None if no file on this machine has it.
    """

    role: str
    name: str
    hub_id: str | None = None
    random: bool = False
    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None

    @property
    def kept(self) -> bool:
        """Whether the trained model holds some or all of its weights."""
        return self.role != "teacher"


def bases_of(cfg: Config) -> list[Base]:
    """Return the bases of a run, including those built with random weights."""
    student = cfg.student
    given = {
        "student": student.path,
        "LLM": student.llm,
        "encoder": student.encoder if student.path is None else None,
        "teacher": cfg.teacher.path if cfg.teacher else None,
    }
    return [_base(role, value) for role, value in given.items() if value is not None]


def _base(role: str, value: str | dict[str, Any]) -> Base:
    if isinstance(value, dict):
        return Base(role, str(value.get("model_type")), random=True)
    if is_architecture(value):
        return Base(role, Path(value).stem, random=True)
    if is_hub_id(value):
        name, hub_id, licence = value, value if is_valid_id(value) else None, _licence(value)
    else:
        folder = Path(value)
        card = folder.parent if _is_part(folder) else folder
        name, hub_id, licence = _called(folder), _hub_id_of(folder), _licence(card)
    link = licence.get("licence_link", "")
    if link and not link.startswith("https://"):  # a file beside the base's card
        licence["licence_link"] = f"{HUB}/{hub_id}/blob/main/{quote(link)}" if hub_id else None
    return Base(role, name, hub_id, **licence)


def _called(folder: Path) -> str:
    """Return a folder's name; for the encoder in a model's folder, with the model's name before it."""
    return f"{run_name(folder.parent)}/{folder.name}" if _is_part(folder) else run_name(folder)


def _is_part(folder: Path) -> bool:
    """Return whether a folder is the encoder in a model's folder, whose card is the model's."""
    return folder.name == "encoder"


def _hub_id_of(folder: Path) -> str | None:
    """Return the hub id of a folder in the hub's cache, or the one in its config."""
    cached = re.fullmatch(r"models--(.+?)--(.+)", folder.resolve().parent.parent.name)
    try:
        name = "/".join(cached.groups()) if cached else read_json(folder / "config.json", "").get(NAME)
    except UserError:
        return None
    return name if names_hub(name) else None


def _licence(model: str | Path) -> dict[str, Any]:
    """Read the licence in the front matter of a base's README (for a hub id, the local copy); nothing is downloaded."""
    try:
        readme = constants.REPOCARD_NAME
        file: Any = model / readme if isinstance(model, Path) else try_to_load_from_cache(model, readme)
        data = ModelCard.load(Path(file), ignore_metadata_errors=True).data
        licence = {"licence": data.license, "licence_name": data.license_name, "licence_link": data.license_link}
    except Exception:  # no training may fail because of a README
        return {}
    identifier = licence["licence"]
    if not isinstance(identifier, str) or not LICENCE.fullmatch(identifier) or identifier == UNKNOWN:
        return {}
    return {key: value for key, value in licence.items() if isinstance(value, str)}
