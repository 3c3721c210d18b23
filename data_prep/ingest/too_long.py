"""What becomes of audio that is longer than the encoder's window; settled at ingest, before an LLM hour is spent on it.

A part of a clip says a part of its transcription, and nobody knows which. So what is cut has no text any more, and a
record that comes with its answer cannot be cut at all.
"""

import math
from collections.abc import Callable

from caad_ds.data.audio.levels import SAMPLE_RATE, longer
from data_prep.common.jsonl import Rejected

Policy = Callable[[dict, float], list[dict] | Rejected]


def reject(record: dict, limit: float) -> Rejected:
    """Leave the record out."""
    longest = max(record["audios"], key=lambda audio: audio["duration"])
    samples = round(longest["duration"] * SAMPLE_RATE)
    reason = f"long: {longest['path']} lasts {longest['duration']:.2f} s, more than {limit:g} s"
    return Rejected(record["id"], f"{reason} ({samples:,} samples at {SAMPLE_RATE} Hz)")


def truncate(record: dict, limit: float) -> list[dict] | Rejected:
    """Keep the first `limit` seconds of each audio."""
    if fault := _uncuttable(record):
        return Rejected(record["id"], fault)
    audios = [
        _part(audio, audio.get("offset", 0.0), limit) if longer(audio["duration"], limit) else audio
        for audio in record["audios"]
    ]
    return [{**record, "audios": audios}]


def split(record: dict, limit: float) -> list[dict] | Rejected:
    """A record for each of the equal parts of at most `limit` seconds: `<id>-s0`, `<id>-s1`, ..."""
    if fault := _uncuttable(record):
        return Rejected(record["id"], fault)
    if len(record["audios"]) != 1:
        return Rejected(record["id"], f"it has {len(record['audios'])} audios, and only one can be split")
    (audio,) = record["audios"]
    count = math.ceil(audio["duration"] / limit)
    seconds, start = audio["duration"] / count, audio.get("offset", 0.0)
    rounded = min(round(seconds, 4), limit)
    return [
        {**record, "id": f"{record['id']}-s{number}", "audios": [_part(audio, start + number * seconds, rounded)]}
        for number in range(count)
    ]


POLICIES: dict[str, Policy] = {"reject": reject, "truncate": truncate, "split": split}


def _part(audio: dict, offset: float, seconds: float) -> dict:
    return {**audio, "text": "", "offset": round(offset, 4), "duration": seconds}


def _uncuttable(record: dict) -> str | None:
    given = next((name for name in ("response", "seed_description") if record.get(name)), None)
    return f"it is too long, and its {given!r} speaks of the whole audio: it cannot be cut" if given else None
