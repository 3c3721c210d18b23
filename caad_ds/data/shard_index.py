"""The index of a folder of shards: the location of each sample, which takes one positioned read."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from caad_ds.data.index_entries import Chain, Count, SampleEntry, Table
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import writing
from caad_ds.utils.text import read_text

VERSION = 1
FILE_NAME = "index.json"

_STRICT = ConfigDict(extra="forbid")
_COMPACT = (",", ":")


@validated(frozen=True, slots=True, config=_STRICT)
class Shard:
    """One tar file: `name` in the index's folder, sha256 and length in bytes of the file, its samples in order."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    sha256: str
    bytes: Count
    seconds: Annotated[float, Field(ge=0)]
    samples: Annotated[Sequence[SampleEntry], AfterValidator(Table)]

    def content(self) -> dict[str, Any]:
        """Return the shard for the index's JSON."""
        return _fields(self) | {"samples": [_fields(entry) for entry in self.samples]}


@validated(frozen=True, slots=True, config=_STRICT)
class IndexFile:
    """The content of `index.json`.

    `manifest` is the sha256 of the manifest that was packed, `shard_bytes` the size at which shards were cut,
    `rejected` the number of records left out, `rules` those that the audio was checked by (usable_audio.py).
    """

    version: int
    manifest: str
    shard_bytes: Count
    rejected: Count
    shards: list[Shard]
    rules: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> Iterator[str]:
        """Yield the JSON text, equal for equal content, shard by shard."""
        rest = {name: value for name, value in _fields(self).items() if name != "shards"}
        head = json.dumps({**rest, "shards": []}, separators=_COMPACT)
        yield head.removesuffix("]}")
        for number, shard in enumerate(self.shards):
            yield ("," if number else "") + json.dumps(shard.content(), separators=_COMPACT)
        yield "]}\n"

    def write(self, path: Path) -> None:
        """Write the JSON file atomically; UserError if the disk is full."""
        with writing(path) as file:
            file.writelines(piece.encode() for piece in self.dump())


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a folder of shards, in the order in which they were packed; `len` is their number."""

    folder: Path
    file: IndexFile
    samples: Chain = field(init=False, repr=False)
    """All samples, in order; a sample's index here is its number for drawing and reading."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", Chain(shard.samples for shard in self.file.shards))

    @classmethod
    def load(cls, folder: Path | str, check_files: bool = True, name: str = FILE_NAME) -> "ShardIndex":
        """Read and validate `folder/index.json`, or the index of a part in the folder.

        `check_files=False` does not check the shards. Raises UserError for a missing or broken index, an index of
        another version, and shards that are missing or not as long as the index says.
        """
        folder = Path(folder)
        index = cls(folder, _parse(folder / name))
        if check_files:
            for fault in (f for shard in index.file.shards if (f := index.shard_fault(shard))):
                raise UserError(f"{fault}: copy it again, or pack the folder again")
        return index

    def __len__(self) -> int:
        return len(self.samples)

    def locate(self, number: int) -> tuple[Shard, SampleEntry]:
        """Return a sample's shard and entry; IndexError if there is none."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in {self.folder}")
        at, position = self.samples.part_of(number)
        shard = self.file.shards[at]
        return shard, shard.samples[position]

    def without(self, numbers: Collection[int]) -> "ShardIndex":
        """Return the same shards without the samples of these numbers; the others are renumbered."""
        shards, first = [], 0
        for shard in self.file.shards:
            kept = [entry for number, entry in enumerate(shard.samples, first) if number not in numbers]
            first += len(shard.samples)
            shards.append(shard if len(kept) == len(shard.samples) else replace(shard, samples=kept))
        return ShardIndex(self.folder, replace(self.file, shards=shards))

    def shard_fault(self, shard: Shard) -> str | None:
        """Describe a wrong length or absence of a shard's file, or None."""
        path = self.folder / shard.name
        if not path.is_file():
            return f"{path} is missing, although {FILE_NAME} lists it"
        size = path.stat().st_size
        return None if size == shard.bytes else f"{path} has {size} bytes where {FILE_NAME} says {shard.bytes}"


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


_KINDS = {
    frozenset(field.name for field in fields(kind)): TypeAdapter(kind).validate_python for kind in (SampleEntry, Shard)
}


def _compact(fields: dict) -> Any:
    """Convert a sample's or shard's JSON object immediately, so a whole corpus's objects are never in memory; invalid
    ones are kept, for the validation of the index to report their location."""
    try:
        return _KINDS[frozenset(fields)](fields)
    except (KeyError, ValidationError):
        return fields


def no_index(*paths: Path) -> UserError:
    """Make the error for missing indexes."""
    what = "does not exist: name a folder" if len(paths) == 1 else "do not exist: name folders"
    named = " and ".join(map(str, paths))
    return UserError(f"{named} {what} that `caad-ds prep pack` wrote (paths are taken from {Path.cwd()})")


def _parse(path: Path) -> IndexFile:
    try:
        content = json.loads(read_text(path), object_hook=_compact)
    except (FileNotFoundError, NotADirectoryError):
        raise no_index(path) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): pack the folder again") from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(f"{path} has version {version!r}, this release reads version {VERSION}: pack the folder again")
    try:
        index = TypeAdapter(IndexFile).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}, at {where}: {first['msg']}: pack the folder again") from None
    for shard in index.shards:
        for sample in shard.samples:
            if sample.offset + sample.size > shard.bytes:
                raise UserError(
                    f"{path}: sample {sample.key} lies beyond the end of {shard.name}: pack the folder again"
                )
    return index
