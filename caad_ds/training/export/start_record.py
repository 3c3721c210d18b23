"""Files written when a run starts: its config, and for the model card what may change later."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from caad_ds import __version__
from caad_ds.config.schema import Config
from caad_ds.data.shard_index import FILE_NAME
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.data.stream import StreamReader
from caad_ds.tracking.origin import PACKAGE, PACKAGES, git_commit, installed_version
from caad_ds.training.export.base_models import Base, bases_of
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import file_hash, read_json, write_atomic, write_json

START = "start.json"


@dataclass(frozen=True)
class StartRecord:
    """The bases, the package versions and hashes of the data, as a run started.

    `data` has `index` and `manifest`: sha256 of the shards' index and of the packed manifest. It is empty for a stream;
    `data` and `versions` are empty if an earlier caad-ds started the run.
    """

    bases: list[Base]
    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, cfg: Config, reader: IndexedReader | StreamReader) -> "StartRecord":
        """Record a run that starts now."""
        versions = {"caad-ds": __version__} | {name: installed_version(name) or "" for name in PACKAGES}
        commit = git_commit(PACKAGE)
        data = {}
        if isinstance(reader, IndexedReader):
            data = {"index": file_hash(reader.index.folder / FILE_NAME), "manifest": reader.identity}
        return cls(bases_of(cfg), versions | ({"commit": commit} if commit else {}), data)

    @classmethod
    def read(cls, run: Path, cfg: Config) -> "StartRecord":
        """Read the record in a run's folder; if there is none, record its bases as they are now."""
        file, remedy = run / START, "remove it, and the model's card says less"
        if not file.is_file():
            return cls(bases_of(cfg))
        try:
            return TypeAdapter(cls).validate_python(read_json(file, remedy))
        except ValidationError as error:
            raise UserError(f"{file}: not what caad-ds writes as a run starts; {remedy}") from error


def write_start(cfg: Config, reader: IndexedReader | StreamReader) -> None:
    """Write `config.yaml` and `start.json` into the run's folder."""
    write_json(cfg.run.output_dir / START, asdict(StartRecord.of(cfg, reader)))
    write_atomic(cfg.run.output_dir / "config.yaml", cfg.to_yaml().encode())
