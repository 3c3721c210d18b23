"""The index beside the shards: which sample lies where, so that any sample is one positioned read."""

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from caad_ds.errors import UserError

VERSION = 1
FILE_NAME = "index.json"

_STRICT = ConfigDict(extra="forbid")
_Count = Annotated[int, Field(ge=0)]


@validated(frozen=True, slots=True, config=_STRICT)
class SampleEntry:
    """One sample: `offset` and `size` in bytes of its members inside the tar, `seconds` of audio, `tokens` of text
    (an estimate), `pcm` the sha256 of its decoded 16-bit samples."""

    key: str
    offset: _Count
    size: Annotated[int, Field(gt=0)]
    seconds: Annotated[float, Field(ge=0)]
    tokens: _Count
    pcm: str


@validated(frozen=True, slots=True, config=_STRICT)
class Shard:
    """One tar file: `name` in the index's folder, sha256 and length in bytes of the file, its samples in order."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    sha256: str
    bytes: _Count
    seconds: Annotated[float, Field(ge=0)]
    samples: list[SampleEntry]


@validated(frozen=True, slots=True, config=_STRICT)
class IndexFile:
    """`index.json` as it stands on disk.

    `manifest` is the sha256 of the manifest that was packed, `shard_bytes` the size at which shards were cut,
    `rejected` the number of records left out.
    """

    version: int
    manifest: str
    shard_bytes: _Count
    rejected: _Count
    shards: list[Shard]

    def dump(self) -> str:
        """The JSON text, equal for equal content."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a folder of shards, in the order in which they were packed; `len` is their number."""

    folder: Path
    file: IndexFile
    _ends: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", list(accumulate(len(shard.samples) for shard in self.file.shards)))

    @classmethod
    def load(cls, folder: Path | str, check_files: bool = True, name: str = FILE_NAME) -> "ShardIndex":
        """Read and validate `folder/index.json`, or another index in the folder, of a part.

        `check_files=False` does not look at the shards. Raises UserError for a missing or broken index, an index of
        another version, and shards that are missing or not as long as the index says.
        """
        folder = Path(folder)
        index = cls(folder, _parse(folder / name))
        if check_files:
            for fault in (f for shard in index.file.shards if (f := index.shard_fault(shard))):
                raise UserError(f"{fault}: copy it again, or pack the folder anew")
        return index

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def samples(self) -> list[SampleEntry]:
        """All samples, in order; a sample's place in this list is the number by which it is drawn and read."""
        return [sample for shard in self.file.shards for sample in shard.samples]

    def locate(self, number: int) -> tuple[Shard, SampleEntry]:
        """The shard that holds a sample, and the sample's entry; IndexError where there is none."""
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} in {self.folder}")
        at = bisect_right(self._ends, number)
        shard = self.file.shards[at]
        return shard, shard.samples[number - self._ends[at]]

    def shard_fault(self, shard: Shard) -> str | None:
        """What is wrong with a shard's file as far as its length tells, or None."""
        path = self.folder / shard.name
        if not path.is_file():
            return f"{path} is missing, although {FILE_NAME} lists it"
        found = path.stat().st_size
        return None if found == shard.bytes else f"{path} has {found} bytes where {FILE_NAME} says {shard.bytes}"


def audio_names(count: int) -> list[str]:
    """The extensions of a sample's audios: `flac`, or `0.flac`, `1.flac`, ... where there are several."""
    return ["flac"] if count == 1 else [f"{number}.flac" for number in range(count)]


def _parse(path: Path) -> IndexFile:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a folder that `caad-ds prep pack` wrote") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): pack the folder anew") from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(f"{path} has version {version!r}, this release reads version {VERSION}: pack the folder anew")
    try:
        index = TypeAdapter(IndexFile).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}, at {where}: {first['msg']}: pack the folder anew") from None
    for shard in index.shards:
        for sample in shard.samples:
            if sample.offset + sample.size > shard.bytes:
                raise UserError(
                    f"{path}: sample {sample.key} lies beyond the end of {shard.name}: pack the folder anew"
                )
    return index
