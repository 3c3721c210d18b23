"""Policies for audio longer than the encoder's window, applied at ingest, before an LLM's time is spent on it.

It is unknown which words of the transcription a part of a clip contains. So audio that is cut loses its text, and a
record that has an answer already cannot be cut.
"""

import math
from collections.abc import Callable

from caad_ds.data.audio.usable_audio import SAMPLE_RATE, longer
from caad_ds.data.record import Audio, Record
from data_prep.common.audio_entry import seconds_of
from data_prep.common.jsonl import Rejected

Policy = Callable[[Record, float], list[Record] | Rejected]


def reject(record: Record, limit: float) -> Rejected:
    """Reject the record."""
    longest = max(record["audios"], key=seconds_of)
    seconds = seconds_of(longest)
    samples = round(seconds * SAMPLE_RATE)
    reason = f"long: {longest['path']} lasts {seconds:.2f} s, more than {limit:g} s"
    return Rejected(record["id"], f"{reason} ({samples:,} samples at {SAMPLE_RATE} Hz)")


def truncate(record: Record, limit: float) -> list[Record] | Rejected:
    """Keep the first `limit` seconds of each audio."""
    if fault := _uncuttable(record):
        return Rejected(record["id"], fault)
    audios = [
        _part(audio, audio.get("offset") or 0.0, limit) if longer(seconds_of(audio), limit) else audio
        for audio in record["audios"]
    ]
    return [{**record, "audios": audios}]


def split(record: Record, limit: float) -> list[Record] | Rejected:
    """Return one record per equal part of at most `limit` seconds: `<id>-s0`, `<id>-s1`, ..."""
    if fault := _uncuttable(record):
        return Rejected(record["id"], fault)
    if len(record["audios"]) != 1:
        return Rejected(record["id"], f"it has {len(record['audios'])} audios, and only one can be split")
    (audio,) = record["audios"]
    count = math.ceil(seconds_of(audio) / limit)
    seconds, start = seconds_of(audio) / count, audio.get("offset") or 0.0
    rounded = min(round(seconds, 4), limit)
    return [
        {**record, "id": f"{record['id']}-s{number}", "audios": [_part(audio, start + number * seconds, rounded)]}
        for number in range(count)
    ]


POLICIES: dict[str, Policy] = {"reject": reject, "truncate": truncate, "split": split}


def _part(audio: Audio, offset: float, seconds: float) -> Audio:
    return {**audio, "text": "", "offset": round(offset, 4), "duration": seconds}


def _uncuttable(record: Record) -> str | None:
    given = next((name for name in ("response", "seed_description") if record.get(name)), None)
    return f"it is too long, and its {given!r} speaks of the whole audio: it cannot be cut" if given else None
