"""Recognises the format of a file or folder that was given in place of JSONL, and names the source that reads it."""

import shlex
from pathlib import Path

from caad_ds.utils.text import BOM

SEPARATORS = b",;\t|"
START = 4096  # bytes that a file's format is recognised by


def check_jsonl(path: Path, start: bytes) -> str | None:
    """Say what a file that begins with `start` is and what reads it; None if it may be JSONL.

    A file counts as JSONL if any of its first lines begins an object, whatever the others hold.
    """
    lines = [line.removeprefix(BOM).strip() for line in start.splitlines()]
    first = next((line for line in lines if line), b"")
    if start.startswith(b"PAR1"):
        return f"it is a Parquet file; {_ingest('parquet', path)}"
    if first in (b"[", b"[{") or first.startswith((b"[{", b"[ {")):
        return f"it is one JSON array; write an object per line, as `jq -c '.[]' {path}` does"
    if any(line.startswith(b"{") for line in lines) or not any(byte in SEPARATORS for byte in first):
        return None
    if first.startswith((b"[", b'"{')) or b"\0" in start:
        return None
    return f"it looks like {'TSV' if bytes([9]) in first else 'CSV'}, not JSONL; {_ingest('csv', path)}"


def in_folder(folder: Path) -> str:
    """Say what reads a folder that was given in place of a file."""
    if any(next(folder.rglob(name), None) for name in ("metadata.csv", "metadata.jsonl")):
        return f"it is a folder with metadata files; {_ingest('audiofolder', folder)}"
    if next(folder.rglob("*.parquet"), None):
        return f"it is a folder with Parquet files; {_ingest('parquet', folder)}"
    if table := next((path for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".tsv")), None):
        return f"it is a folder; {_ingest('csv', table)}"
    return "it is a folder; name a file"


def plain_line(row: dict, path: Path) -> str | None:
    """Say what to do with a line that only `prep ingest` reads; None if it is not such a line."""
    names = {"audio", "audio_filepath", "file_name"} & row.keys()
    if "audios" in row or not names:
        return None
    source = "nemo" if "audio_filepath" in names else "jsonl"
    return f"it is no record of a manifest (no 'audios'); {_ingest(source, path)}, for this step to read"


def _ingest(source: str, path: Path) -> str:
    return f"`caad-ds prep ingest {source} --root {shlex.quote(str(path))} --out MANIFEST.jsonl` makes a manifest of it"
