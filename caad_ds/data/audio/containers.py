"""Read formats that libsndfile does not, such as AAC, by PyAV (extra `audio`), whose wheels include FFmpeg's libraries.

The format is detected by a file's first bytes and passed to FFmpeg, which would otherwise open the files of a playlist.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from caad_ds.utils.errors import AudioError

ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
FORMATS = {
    "mov": "an MP4 or QuickTime file",
    "matroska": "a Matroska or WebM file",
    "asf": "a Windows Media file",
    "aac": "a raw AAC stream",
    "amr": "an AMR file",
}  # FFmpeg's name, and the usual one
HEAD = 16
EDIT_SECONDS = 0.002  # an edit list is in units of 1 / 600 s or less
SCALES = {"u1": 128.0, "i2": 2.0**15, "i4": 2.0**31, "f4": 1.0, "f8": 1.0}


def format_of(file: BinaryIO) -> str | None:
    """Return FFmpeg's name of the format, if it is read here; the file is left at its start."""
    file.seek(0)
    head = file.read(HEAD)
    if head[:3] == b"ID3" and len(head) >= 10:  # tags precede a raw stream
        file.seek(10 + sum(byte << 7 * index for index, byte in enumerate(reversed(head[6:10]))))
        tagged, head = True, file.read(HEAD)
    else:
        tagged = False
    file.seek(0)
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0:
        return "aac"
    if tagged:
        return None
    if head[4:8] in ATOMS:
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:8] == b"\x30\x26\xb2\x75\x8e\x66\xcf\x11":
        return "asf"
    return "amr" if head[:5] == b"#!AMR" else None


class Container:
    """The only audio stream of a file, with the interface of `soundfile.SoundFile`; a context.

    The encoder's padding before and after the audio is removed if the file has its length: MP4, and Opus in Matroska.
    `claims` is the header's number of frames, or None; it is not exact, so `frames` is unknown. AudioError for a file
    with no or several audio streams, or one that does not decode.
    """

    extra_info, frames = "", None

    def __init__(self, source: Path | BinaryIO, kind: str) -> None:
        self._av = _library(kind)
        self.format = kind
        try:
            opened = str(source) if isinstance(source, Path) else source
            self._file = self._av.open(opened, format=kind, metadata_errors="replace")
            streams = self._file.streams.audio
            if len(streams) != 1:
                raise AudioError(f"the file has {len(streams) or 'no'} audio streams; extract one of them")
            self._stream = streams[0]
            if self._stream.codec_context is None:
                raise AudioError("its codec is not known to FFmpeg; convert it")
            self.subtype = self._stream.codec_context.name
            self._blocks = self._decoded()
            first = next(self._blocks, None)
        except self._av.FFmpegError as error:
            raise AudioError(error.strerror or str(error)) from error
        if first is None:
            raise AudioError("the audio is empty")
        self._rest: np.ndarray = first
        self.channels = first.shape[1]
        self.claims = self._claimed()

    def read(self, frames: int, dtype: str = "float32") -> np.ndarray:
        """Read up to `frames` frames, float32 [frames] or [frames, channels]."""
        parts, missing = [], frames
        while missing:
            if not len(self._rest):
                try:
                    block = next(self._blocks, None)
                except self._av.FFmpegError as error:
                    raise AudioError(f"the file is damaged or cut short: {error.strerror or error}") from error
                if block is None:
                    break
                self._rest = block
            parts.append(self._rest[:missing])
            missing -= len(parts[-1])
            self._rest = self._rest[len(parts[-1]) :]
        samples = np.concatenate(parts) if parts else np.empty((0, self.channels), np.float32)
        return samples[:, 0] if self.channels == 1 else samples

    def seek(self, frames: int) -> None:
        """Skip `frames` frames from the start."""
        while frames and (passed := len(self.read(min(frames, 1 << 20)))):
            frames -= passed

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _claimed(self) -> int | None:
        """Return the header's number of frames, if FFmpeg does not estimate it."""
        if self.format == "mov" and self._stream.duration:
            return round(self._stream.duration * self._stream.time_base * self.samplerate)
        if self.format in ("matroska", "asf") and self._file.duration:
            return round(self._file.duration * self.samplerate / self._av.time_base)
        return None

    def _decoded(self) -> Iterator[np.ndarray]:
        """Yield blocks float32 [frames, channels]; an MP4 ends where its packets or its edit list end."""
        given, begin, kind = 0, 0.0, None
        end: float | None = None
        for packet in self._file.demux(self._stream):
            if self.format == "mov" and packet.pts is not None and packet.size:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for frame in packet.decode():
                if kind is None:
                    kind = (frame.sample_rate, frame.layout.name)
                    self.samplerate = frame.sample_rate
                    begin = float(frame.pts * frame.time_base) if frame.pts is not None else 0.0
                if (frame.sample_rate, frame.layout.name) != kind:
                    raise AudioError("its rate or channels change midway; convert it")
                block = _samples(frame)
                if end is not None:
                    block = block[: max(0, round((self._end(end) - begin) * self.samplerate) - given)]
                given += len(block)
                if len(block):
                    yield block

    def _end(self, end: float) -> float:
        """Return the end of a packet in seconds, or that of the edit list if it is earlier."""
        if self._stream.duration is None:
            return end
        edited = float(((self._stream.start_time or 0) + self._stream.duration) * self._stream.time_base)
        return edited if end - edited > EDIT_SECONDS else end


def _samples(frame: Any) -> np.ndarray:
    """Convert a frame to float32 [frames, channels]."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    kind = values.dtype.str[1:]
    floats = values.astype(np.float32 if kind != "i4" else np.float64)
    return ((floats - (128.0 if kind == "u1" else 0.0)) / SCALES[kind]).T.astype(np.float32)


def _library(kind: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise AudioError(f"{FORMATS[kind]}, which needs PyAV: pip install 'caad-ds[audio]', or convert it") from error
    av.logging.set_level(av.logging.PANIC)
    return av
