"""What the readers of published corpora (`sources/`) share: how a folder is walked and a record is made."""

from collections.abc import Iterator
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.text import TextError, read_lines, read_text
from data_prep.common.jsonl import Rejected

UNREADABLE = "\ufffd"  # what Python decodes bytes to that are not UTF-8
GENDERS = {"f": "female", "m": "male"}


def part(root: Path, name: str, corpus: str) -> Path:
    """A folder or file that makes `root` the corpus; UserError, which says what --root names, where it is missing."""
    path = root / name
    if not path.exists():
        raise UserError(f"{path} does not exist: --root names {corpus}")
    return path


def folders(parent: Path) -> list[Path]:
    """The folders in a folder, by name, without hidden ones."""
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def files(parent: Path, pattern: str) -> list[Path]:
    """The files in a folder that match, by name, without hidden ones: archives packed on macOS hold `._NAME` too.

    A link that leads nowhere is among them, for `prep ingest` to tell.
    """
    return sorted(path for path in parent.glob(pattern) if not path.is_dir() and not path.name.startswith("."))


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, as `PATH line N`, and the line itself; blank lines are passed over.

    Bytes that are not UTF-8 become `UNREADABLE`; `utterance` rejects what takes them over.
    """
    for number, line in read_lines(path, "replace"):
        if line.strip():
            yield f"{path} line {number}", line.strip()


def transcription(path: Path) -> str:
    """What a text file says; "" where it is empty or, such as a link that leads nowhere, cannot be read.

    What is not UTF-8 becomes `UNREADABLE`, as in `lines`.
    """
    try:
        return read_text(path, "replace").strip()
    except TextError:
        return UNREADABLE
    except OSError:
        return ""


def utterance(source: str, identity: str, audio: Path, text: str, **attributes: str | None) -> dict | Rejected:
    """A record of one audio; attributes that are None or empty are left out, as only what is known is described.

    Rejected where its text or an attribute was not UTF-8 in the corpus's files.
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
