"""Audio files as benchmarks name them, which is not always as they are called on this disk."""

import os
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize


def find(name: str, *folders: Path) -> Path | None:
    """The file of that name in the first folder that has it, under the first of its spellings; None if none has."""
    for spelling in dict.fromkeys(_spellings(name)):
        for folder in folders:
            if os.path.isfile(folder / spelling):  # of a name that is too long, Path.is_file raises
                return folder / spelling
    return None


def _spellings(name: str) -> Iterator[str]:
    """As written, with the other composition of accents (macOS), the other slash (Windows), and as a WAV of that name,
    which is what the CAAD authors' reader falls back on."""
    for written in (name, name.replace("\\", "/")):
        for form in (written, normalize("NFC", written), normalize("NFD", written)):
            yield form
            yield os.path.splitext(form)[0] + ".wav"
