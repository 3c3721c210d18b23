"""The demo's corpus: one split folder as `prep synthesize` wrote it."""

from collections.abc import Iterator
from pathlib import Path

from caad_ds.utils.errors import UserError
from data_prep.common.jsonl import Rejected, read_rows


def records(root: Path) -> Iterator[dict | Rejected]:
    """Yield a record per clip of a split; every column but text and audio is metadata."""
    listing = root / "metadata.jsonl"
    if not listing.exists():
        raise UserError(f"{root}: it holds no finished split (no metadata.jsonl); run `caad-ds prep synthesize` first")
    for number, row in read_rows(listing):
        if isinstance(row, Rejected):
            yield row
            continue
        if missing := [name for name in ("id", "audio", "text") if not isinstance(row.get(name), str)]:
            reason = f"no {missing[0]!r} in text; remove {root} and run `caad-ds prep synthesize`"
            yield Rejected(f"{listing.name} line {number}", reason)
            continue
        columns = dict(row)
        identity, audio, text = (columns.pop(name) for name in ("id", "audio", "text"))
        columns.pop("duration", None)
        yield {
            "id": identity,
            "audios": [{"path": str(root / audio), "text": text}],
            "metadata": columns,
            "source": "demo",
        }
