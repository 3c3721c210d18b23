"""Shared by the readers of published corpora (`sources/`): listing folders, reading text files, making records."""

from collections.abc import Iterator
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.text import TextError, read_lines, read_text
from data_prep.common.jsonl import Rejected

UNREADABLE = "\ufffd"  # Python's replacement for bytes that are not UTF-8
GENDERS = {"f": "female", "m": "male"}


def part(root: Path, name: str, corpus: str) -> Path:
    """Return a folder or file of the corpus below `root`; if it is missing, UserError says what --root must be."""
    path = root / name
    if not path.exists():
        raise UserError(f"{path} does not exist: --root names {corpus}")
    return path


def folders(parent: Path) -> list[Path]:
    """List the folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def files(parent: Path, pattern: str) -> list[Path]:
    """List the matching files in a folder, sorted, without hidden ones: archives packed on macOS hold `._NAME` too.

    Broken links are included, so that `prep ingest` reports them.
    """
    return sorted(path for path in parent.glob(pattern) if not path.is_dir() and not path.name.startswith("."))


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the position (`PATH line N`) and text of each line that is not blank.

    Bytes that are not UTF-8 become `UNREADABLE`; `utterance` rejects values that contain it.
    """
    for number, line in read_lines(path, "replace"):
        if line.strip():
            yield f"{path} line {number}", line.strip()


def transcription(path: Path) -> str:
    """Read a text file; "" if it is empty or cannot be read, such as a broken link.

    Bytes that are not UTF-8 become `UNREADABLE`, as in `lines`.
    """
    try:
        return read_text(path, "replace").strip()
    except TextError:
        return UNREADABLE
    except OSError:
        return ""


def utterance(source: str, identity: str, audio: Path, text: str, **attributes: str | None) -> dict | Rejected:
    """Return a record of one audio, without attributes that are None or empty.

    `Rejected` if its text or an attribute is not UTF-8 in the corpus's files.
    """
    for name, value in {"text": text, **attributes}.items():
        if value and UNREADABLE in value:
            return Rejected(identity, f"its {name} is not UTF-8 text: {value!r:.60}; convert the corpus's text files")
    return {
        "id": identity,
        "audios": [{"path": audio.as_posix(), "text": text}],
        "metadata": {name: value for name, value in attributes.items() if value},
        "source": source,
    }
