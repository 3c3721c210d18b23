"""Audio as the project keeps it: float32 mono 16 kHz in memory, 16-bit FLAC on disk."""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000
PROBE_FRAMES = 1 << 18
CUT = re.compile(r"(?:data|SSND|Data Size) +: (\d+) \(should be (\d+)\)")  # libsndfile's log of a WAV, AIFF, AU
UNKNOWN_BYTES = 0x7FFF0000  # what a WAV header claims that was written before the length was known, or more
FEW_FRAMES = 4 * 1441  # bytes of an MP3; its last frames may be padding, which is not read
READ_FRAMES = 1 << 20
LONGEST_SECONDS = 3600.0  # of an audio in a shard: what its header claims is not believed beyond


class AudioError(Exception):
    """An audio that does not decode, or holds nothing usable; callers add which record it belongs to."""


def load(path: Path | BinaryIO, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """Any file, by path or open, that libsndfile reads, as mono at 16 kHz: float32 [samples] in [-1, 1].

    With `start` and `seconds` only that part of it, cut at the file's own rate. Raises AudioError if it is missing,
    does not decode, is empty or not finite.
    """
    with _opened(path) as file:
        return _waveform(file, *_part(file, start, seconds))


def load_pcm16(path: Path, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """What `load` gives, rounded to int16 [samples]; 16-bit mono at 16 kHz is taken as it is."""
    with _opened(path) as file:
        part = _part(file, start, seconds)
        if (file.samplerate, file.channels, file.subtype) != (SAMPLE_RATE, 1, "PCM_16"):
            return to_pcm16(_waveform(file, *part))
        return _not_empty(_read(file, *part, "int16"))


def probe(path: Path) -> float:
    """The length in seconds of a file that decodes from end to end, a block at a time however long it is.

    Raises AudioError as `load` does, and where the file ends before its header says (cut short, its text would speak
    of more than is heard) or goes on after it, which is not read. A cut Ogg file cannot be told from a whole one.
    """
    with _opened(path) as file:
        if file.format != "MP3":
            return _length(file)
    with open(path, "rb") as data, _opened(data) as file:
        seconds = _length(file, 0.02, " (or it is an MP3 that does not say its length: convert it)")
        # libsndfile believes the length that such an MP3 has by the bit rate of its first frame.
        rest = data.read(FEW_FRAMES)
        if len(rest) == FEW_FRAMES and rest[0] == 0xFF and rest[1] >= 0xE0:  # the head of a frame
            raise AudioError(f"an MP3 that does not say its length: it goes on after {seconds:.2f} s; convert it")
        return seconds


def _length(file: soundfile.SoundFile, slack: float = 0.0, hint: str = "") -> float:
    """The seconds that are there, read to the end.

    AudioError, with `hint` at its end, where the header says more by 0.1 s and a share of `slack`, as it may be an
    estimate.
    """
    frames = 0
    while len(block := file.read(PROBE_FRAMES, dtype="float32")):
        if not np.isfinite(block).all():
            raise AudioError("the audio holds values that are not finite")
        frames += len(block)
    if not frames:
        raise AudioError("the audio is empty")
    seconds, claims = frames / file.samplerate, file.frames / file.samplerate
    if cut := CUT.search(file.extra_info):  # libsndfile has made `frames` what is there
        claimed, found = map(int, cut.groups())
        claims *= claimed / found if claimed < UNKNOWN_BYTES else 1
    if seconds < (1 - slack) * claims - 0.1:
        raise AudioError(f"the file is cut short: {seconds:.2f} of {claims:.2f} s are there{hint}")
    return seconds


@contextmanager
def _opened(path: Path | BinaryIO) -> Iterator[soundfile.SoundFile]:
    try:
        if isinstance(path, Path) and not path.is_file():
            raise AudioError("there is no such file")
        with soundfile.SoundFile(path) as file:
            yield file
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: a file by the name of a headerless one
        # libsndfile's own words alone: before them stands the file, of an open one its address in memory.
        raise AudioError(getattr(error, "error_string", str(error))) from error


def _part(file: soundfile.SoundFile, start: float, seconds: float | None) -> tuple[int, int]:
    """First frame and number of frames of a part of a file."""
    first = min(round(start * file.samplerate), file.frames)
    rest = file.frames - first
    return first, rest if seconds is None else min(round(seconds * file.samplerate), rest)


def _waveform(file: soundfile.SoundFile, first: int, frames: int) -> np.ndarray:
    channels = _read(file, first, frames, "float32")
    # Column by column: numpy's mean over the last axis takes longer than decoding.
    mono = channels if channels.ndim == 1 else sum(channels.T) / np.float32(file.channels)
    if file.samplerate != SAMPLE_RATE:
        mono = soxr.resample(mono, file.samplerate, SAMPLE_RATE)
    if not np.isfinite(_not_empty(mono)).all():
        raise AudioError("the audio holds values that are not finite")
    return mono.astype(np.float32, copy=False)


def _read(file: soundfile.SoundFile, first: int, frames: int, dtype: str) -> np.ndarray:
    """A part's samples, [frames] or [frames, channels]; what is allocated follows what is there, not the header."""
    if first:
        file.seek(first)
    blocks = [file.read(min(frames, READ_FRAMES), dtype=dtype)]
    while len(blocks[-1]) == READ_FRAMES and (frames := frames - READ_FRAMES):
        blocks.append(file.read(min(frames, READ_FRAMES), dtype=dtype))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _not_empty(samples: np.ndarray) -> np.ndarray:
    if not samples.size:
        raise AudioError("the audio is empty")
    return samples


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """A float waveform rounded to little-endian int16, clipped at full scale."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype("<i2")


def encode(pcm: np.ndarray) -> bytes:
    """int16 [samples] at 16 kHz as a FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return buffer.getvalue()


def decode(data: bytes, dtype: str = "float32", longest: float = LONGEST_SECONDS) -> np.ndarray:
    """What `encode` wrote, as float32 in [-1, 1] or as its int16: [samples].

    AudioError if it does not decode, is anything else, or claims to last more than `longest` seconds.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.samplerate != SAMPLE_RATE or file.channels != 1:
                raise AudioError(f"the audio is not {SAMPLE_RATE} Hz mono")
            if file.frames > round(longest * SAMPLE_RATE):
                seconds = file.frames / SAMPLE_RATE
                raise AudioError(f"the audio claims to last {seconds:.1f} s, more than {longest:g} s")
            return file.read(dtype=dtype)
    except soundfile.SoundFileError as error:
        raise AudioError(str(error)) from error


def pcm_hash(parts: list[np.ndarray]) -> str:
    """sha256 of the int16 samples of a record's audios, one after another; survives a change of FLAC encoder."""
    digest = hashlib.sha256()
    for pcm in parts:
        digest.update(pcm.astype("<i2", copy=False).tobytes())
    return digest.hexdigest()
