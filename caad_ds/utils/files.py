"""Atomic writes, locks, JSON and YAML."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from caad_ds.utils.errors import DiskFull, UserError
from caad_ds.utils.text import TextError, as_text, read_text
from caad_ds.utils.validation_errors import mistakes

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
OPEN_FILES = 256  # kept open by a reader; a process may have 1,024 by default
PARTIAL, LOCK = ".partial", ".lock"  # suffixes of temporary files while another is written
RELEASED_AFTER = 120  # seconds until locks of a lost node are released; NFS takes 90
TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # file systems without locks


class Unquoted(yaml.MarkedYAMLError):
    """A text that YAML has read as a number, a boolean, a date or null."""


class _Loader(yaml.SafeLoader):
    """YAML with unique text keys in mappings; of duplicate keys PyYAML silently takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} comes twice", problem_mark=key.start_mark)
                seen.add(key.value)
                if key.tag != MERGE:
                    _as_written(key)
        return node


def _as_written(node: yaml.ScalarNode) -> None:
    """Convert a scalar, such as the number 1, to its text; YAMLError if YAML's value differs from the text."""
    value = _constructed(yaml.ScalarNode(node.tag, node.value))
    if value is None or as_text(value) != node.value:
        read = "nothing" if value is None else as_text(value)
        quotes = f"write it in quotes: {json.dumps(node.value, ensure_ascii=False)}"
        raise Unquoted(problem=f"YAML reads {node.value} as {read}; {quotes}", problem_mark=node.start_mark)
    node.tag = TEXT


def _constructed(node: yaml.Node | None) -> Any:
    """Return the value of a node; None without a node, as in an empty file."""
    if node is None:
        return None
    try:
        return _Loader("").construct_document(node)
    except ValueError as error:  # a date such as 2019-13-45
        raise yaml.MarkedYAMLError(problem=f"{error} in a value", problem_mark=node.start_mark) from error


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk into DiskFull, and a folder that cannot be made or written into a UserError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if _is_full(error):
            raise DiskFull(f"no space left for {folder}: free some or write elsewhere, then run it again") from error
        if isinstance(error, OSError) and (error.errno in _REFUSED or _cannot_be_made(error, folder)):
            raise UserError(f"{folder} cannot be written ({error.strerror}): write elsewhere") from error
        raise


def _cannot_be_made(error: OSError, folder: Path) -> bool:
    """Return whether "no such file" concerns the folder, or the first file made in it, as in /proc, and not a file that
    the body reads."""
    if error.errno != errno.ENOENT or error.filename is None:
        return False
    path = Path(os.fsdecode(error.filename))
    return path == folder or path in folder.parents or (path.parent == folder and path.suffix in (PARTIAL, LOCK))


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name; sync and rename it when the body ends, remove it if that fails.

    UserError if the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}{PARTIAL}")
    if path.exists() and not path.is_file():  # a rename over /dev/null would replace it by a file
        raise UserError(f"{path} is no regular file: name another")
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_stale(path)
        try:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


def _drop_stale(path: Path) -> None:
    """Remove temporary files of killed processes of this host."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(os.uname().nodename)}.*{PARTIAL}"):
        try:
            os.kill(int(partial.name.split(".")[-2]), 0)
        except ProcessLookupError:
            partial.unlink(missing_ok=True)
        except (ValueError, PermissionError):  # not ours to judge, or alive
            continue


@contextmanager
def sole_writer(path: Path, shared: bool = False, patience: float = 0, inside: bool = False) -> Iterator[None]:
    """Hold a lock beside `path` while the body runs; UserError if another process, on any host, holds it.

    A `shared` lock admits other shared ones, but no exclusive one. It is waited for `patience` seconds.

    Two tasks on one output, such as a requeued job and its lost twin, would mix up each other's lines. A requeued job
    waits: a file system may keep a lost node's lock for a while. If a folder's parent is not writable, such as for a
    mounted volume, the lock is in the folder; with `inside` it always is, and the folder is made. Where a folder is
    mounted, or its parent belongs to one user, only a lock inside is the same for all who write to it.
    """
    lock = _lock_of(path, inside)
    requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    end = time.monotonic() + max(patience, RELEASED_AFTER if requeued else 0)
    with disk_errors(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        while (file := _locked(lock, shared)) is None and time.monotonic() < end:
            time.sleep(0.5)
    if file is None:
        raise UserError(f"another process is writing {path}: wait until it ends, or name another output")
    try:
        yield
    finally:
        if not shared:
            _remove(lock)
        file.close()


def is_free(path: Path, inside: bool = False) -> bool:
    """Return whether no one holds the lock of `sole_writer` at this moment."""
    lock = _lock_of(path, inside)
    with disk_errors(lock.parent):
        file = _locked(lock)
    if file is not None:
        _remove(lock)
        file.close()
    return file is not None


def has_locks(folder: Path) -> bool:
    """Return whether the file system of a folder has file locks."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
    return True


def _lock_of(path: Path, inside: bool) -> Path:
    if inside or (path.is_dir() and not os.access(path.parent, os.W_OK)):
        return path / LOCK
    return path.with_name(f".{path.name}{LOCK}")


def _locked(lock: Path, shared: bool = False) -> BinaryIO | None:
    """Open and lock the lock file; None if another process holds it. On a file system without locks it is only
    opened."""
    while True:
        file = _opened(lock)
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except FileNotFoundError:
            pass  # its holder has ended and removed it since it was opened: open the new one
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file
            raise
        file.close()


def _remove(lock: Path) -> None:
    with suppress(PermissionError):  # another user's, in a folder with the sticky bit
        lock.unlink(missing_ok=True)


def _opened(lock: Path) -> BinaryIO:
    """Open a lock file, and make it if it is not there; another user's, which cannot be written, only to be locked."""
    try:
        return open(lock, "wb")
    except PermissionError:
        if not lock.exists():
            raise
        return open(lock, "rb")


class OpenFile:
    """A file for reads at offsets, closed with its last reference.

    Readers hold a reference: a file that is evicted from a cache of open files may still be in use.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):  # opening succeeded
            os.close(self.descriptor)


def file_hash(source: Path | BytesIO) -> str:
    """Return the sha256 of a file, on disk or in memory."""
    with source if isinstance(source, BytesIO) else open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, sync it, rename it; UserError if the disk is full."""
    with writing(path) as file:
        file.write(data)


def follow_umask(folder: Path) -> None:
    """Set the safetensors files in a folder to the default mode of new files; the library makes them private."""
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file atomically; NaN, which is not JSON, is refused."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def to_line(value: Mapping[str, object]) -> bytes:
    """Return a dictionary as one line of JSONL."""
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write a JSONL file atomically."""
    with writing(path) as file:
        file.writelines(map(to_line, rows))


def read_json(path: Path, remedy: str) -> dict:
    """Read the object in a JSON file; UserError, which ends with `remedy`, if there is none."""
    try:
        value = json.loads(read_text(path))
    except TextError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: no JSON object; {remedy}")
    return value


def drop_cut_line(path: Path) -> None:
    """Truncate a file of appended lines after its last line break; a killed process left the rest."""
    with disk_errors(path.parent), open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:  # from the end in blocks: the file may be larger than memory
            start = max(0, end - (1 << 20))
            file.seek(start)
            if newline := file.read(end - start).rfind(b"\n") + 1:
                end = start + newline
                break
            end = start
        file.truncate(end)


def parse_yaml(text: str) -> Any:
    """Parse a YAML text; yaml.YAMLError if it is invalid, or has a duplicate key."""
    return _constructed(yaml.compose(text, _Loader))


def read_yaml(path: Path, kind: Any) -> Any:
    """Read a YAML file as the type `kind`, validated by pydantic; UserError names the mistakes.

    Where `kind` has a text, a number or boolean is accepted if YAML's value equals its text: 1, but neither 1.10 nor
    yes, which are 1.1 and true.
    """
    try:
        return _validated(yaml.compose(read_text(path), _Loader), TypeAdapter(kind))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None)
        what = f"{problem} in line {mark.line + 1}" if mark else " ".join(str(error).split())
        raise UserError(f"{path}: {'' if isinstance(error, Unquoted) else 'it is not YAML: '}{what}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {mistakes(error, kind)}") from error


def _validated(node: yaml.Node | None, kind: TypeAdapter) -> Any:
    """Validate a node as a type; scalars that should be texts are converted."""
    while True:
        try:
            return kind.validate_python(_constructed(node))
        except ValidationError as error:
            locations = [item["loc"] for item in error.errors() if item["type"] == "string_type"]
            scalars = [text for location in locations if (text := _scalar(node, location)) and text.value]
            if not scalars:
                raise
            for scalar in scalars:
                _as_written(scalar)


def _scalar(node: yaml.Node | None, location: Sequence[str | int]) -> yaml.ScalarNode | None:
    """Return the scalar at a pydantic location, if there is one."""
    for part in location:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            return None
    return node if isinstance(node, yaml.ScalarNode) else None


def _is_full(error: Exception) -> bool:
    # safetensors and torch write files themselves and raise own errors, recognized only by their text.
    messages = ("No space left", "PytorchStreamWriter failed writing")
    return getattr(error, "errno", None) in _FULL or any(text in str(error) for text in messages)
