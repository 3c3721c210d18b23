"""Find audio files whose names in a benchmark differ in spelling from those on disk."""

import os
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize


def find(name: str, *folders: Path) -> Path | None:
    """Return the file of that name under its first spelling that exists, in the first folder that has it; or None."""
    for spelling in dict.fromkeys(_spellings(name)):
        for folder in folders:
            if os.path.isfile(folder / spelling):  # Path.is_file raises if the name is too long
                return folder / spelling
    return None


def _spellings(name: str) -> Iterator[str]:
    """Yield the name as written, with accents composed or decomposed (macOS), with forward slashes (Windows), and with
    the ending .wav, the fallback of the CAAD authors' reader."""
    for written in (name, name.replace("\\", "/")):
        for form in (written, normalize("NFC", written), normalize("NFD", written)):
            yield form
            yield os.path.splitext(form)[0] + ".wav"
