"""The tar members of a sample in a shard: each is checked before it is read."""

import io
import json
import tarfile
from pathlib import PurePosixPath

from caad_ds.data.record import PackedRecord, RecordFault, as_packed

PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
LARGEST = 1 << 28  # bytes of a member, more than an hour of audio


class BrokenSample(Exception):
    """A sample's bytes are not valid; the reader adds which sample it is."""


class Header(tarfile.TarInfo):
    """A member's header, checked before tarfile uses it: a plain file's, or its long name.

    BrokenSample for links, devices, sparse files and members of more than `LARGEST` bytes.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        header = super().frombuf(buf, encoding, errors)
        if header.type not in PLAIN:
            raise BrokenSample(f"the member {header.name!r} is no plain file")
        if not 0 <= header.size <= LARGEST:
            raise BrokenSample(f"the member {header.name!r} claims {header.size} bytes")
        return header


def parse(block: bytes, key: str) -> tuple[PackedRecord, list[bytes]]:
    """Parse a sample's tar members to its record and its audio files, in the record's order.

    Raises BrokenSample for members that are missing, foreign or not plain files, and for a record that is not JSON or
    lacks fields for training.
    """
    members = _members(block, key)
    if "json" not in members:
        raise BrokenSample(f"the member {key}.json is missing")
    record = _record(members.pop("json"), key)
    names = audio_names(len(record["audios"]))
    if set(members) != set(names):
        raise BrokenSample(f"the audio members are {sorted(members)}, the record asks for {names}")
    return record, [members[name] for name in names]


def first_record(head: bytes, key: str) -> PackedRecord | None:
    """Parse a sample's record from its first bytes; None if it is not the first member, or not complete."""
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:", tarinfo=Header) as tar:
            member = tar.next()
    except (tarfile.TarError, ValueError, RecursionError):  # `parse` reports what is wrong
        return None
    if member is None or member.name != f"{key}.json" or member.offset_data + member.size > len(head):
        return None
    return _record(head[member.offset_data : member.offset_data + member.size], key)


def _record(data: bytes, key: str) -> PackedRecord:
    """Parse and check a record."""
    try:
        return as_packed(json.loads(data))
    except RecordFault as fault:
        raise BrokenSample(str(fault)) from fault
    except (ValueError, RecursionError) as error:
        raise BrokenSample(f"the member {key}.json is no JSON ({error})") from error


def _members(block: bytes, key: str) -> dict[str, bytes]:
    """Return members by extension (`json`, `flac`, `0.flac`, ...), each checked before it is read."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(block), mode="r:", tarinfo=Header) as tar:
            for member in tar:
                _check(member, key, len(block))
                data = block[member.offset_data : member.offset_data + member.size]
                if members.setdefault(member.name.removeprefix(f"{key}."), data) is not data:
                    raise BrokenSample(f"the member {member.name!r} comes twice")
    except (tarfile.TarError, ValueError, RecursionError) as error:  # PAX records, or nested headers
        raise BrokenSample(f"no tar members in its bytes ({error})") from error
    return members


def _check(member: tarfile.TarInfo, key: str, limit: int) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise BrokenSample(f"the member name {member.name!r} leaves the shard")
    if not member.isreg() or member.issparse():
        raise BrokenSample(f"the member {member.name!r} is no plain file")
    if not member.name.startswith(f"{key}."):
        raise BrokenSample(f"the member {member.name!r} belongs to another sample")
    if member.size < 0 or member.offset_data + member.size > limit:
        raise BrokenSample(f"the member {member.name!r} claims {member.size} bytes, the sample has {limit} in all")


def audio_names(count: int) -> list[str]:
    """Return the extensions of a sample's audios: `flac`, or `0.flac`, `1.flac`, ... if there are several."""
    return ["flac"] if count == 1 else [f"{number}.flac" for number in range(count)]
