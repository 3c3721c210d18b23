"""Decode audio to the project's format: float32 mono 16 kHz in memory, 16-bit FLAC on disk."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from caad_ds.data.audio import containers, header_lengths, ogg, wav
from caad_ds.data.audio.pcm16 import to_pcm16
from caad_ds.data.audio.usable_audio import SAMPLE_RATE, Levels
from caad_ds.utils.errors import AudioError, first_line

PROBE_FRAMES = 1 << 18
# libsndfile's log of a WAV, AIFF, AU, 8SVX (size of the samples), and of W64 and RF64 (size of the whole file)
CUT = re.compile(r"(?:data|SSND|Data Size|BODY|riff|Riff size) +: (\d+) \(should be (\d+)\)")
UNKNOWN_BYTES = 0x7FFF0000  # length in a WAV header written before the length was known, or more
LARGEST = 0xFFFFFFFF  # of its 4 bytes; W64 and RF64 have 8
FEW_FRAMES = 4 * 1441  # bytes of an MP3; its last frames may be padding, which is not decoded
READ_VALUES = 1 << 20  # of all channels, in a block
PART_SECONDS = 0.1  # that may be missing from a part of a file
VALUES_PER_SECOND = 400_000  # of all channels: 192 kHz in stereo, 48 kHz in eight
HEADER = 4096  # bytes; a longer file has samples, whatever its header says

# Overflowing sums of samples are reported as an error or a broken rule, not as numpy's warning.
_unwarned = np.errstate(over="ignore", invalid="ignore")

# Formats that libsndfile reads, and in which a truncated file is detected.
CHECKED = frozenset("WAV WAVEX RF64 W64 AIFF AU CAF FLAC OGG MP3 NIST SVX".split())
File = Any  # a soundfile.SoundFile, or a Container, which has its interface


def load(path: Path | BinaryIO, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """Load any file, by path or open, that libsndfile or PyAV reads, as mono at 16 kHz: float32 [samples] in [-1, 1].

    With `start` and `seconds` only that part, cut at the file's own rate. Raises AudioError if it is missing, does not
    decode, is truncated, empty or not finite.
    """
    return measured(path, start, seconds)[0]


@_unwarned
def measured(
    path: Path | BinaryIO, start: float = 0.0, seconds: float | None = None, longest: float | None = None
) -> tuple[np.ndarray, Levels]:
    """Load like `load`, and return the levels of the same part, which `Rules` check.

    TooLong if it lasts more than `longest` seconds, AudioError if it has more than VALUES_PER_SECOND; no more than that
    is decoded, whatever the header says. Memory follows the samples at 16 kHz, whatever the file's rate and channels.
    """
    with _opened(path, whole=not start and seconds is None) as file:
        return _cut(*_waveform(file, *_part(file, start, seconds), longest), seconds)


@_unwarned
def measured_samples(samples: np.ndarray, rate: int) -> tuple[np.ndarray, Levels]:
    """Return what `measured` returns for a file of these samples, [frames] or [frames, channels], at `rate` Hz.

    Floats have full scale 1, signed integers of at most 32 bits that of their type. Raises AudioError for other types,
    and for empty or non-finite samples.
    """
    samples = np.asarray(samples)
    if not isinstance(rate, Integral) or rate < 1:
        raise AudioError(f"a sample rate of {rate!r}; give a whole number of Hz")
    if samples.dtype.kind == "i" and samples.itemsize <= 4:
        samples = samples / np.float32(2.0 ** (8 * samples.itemsize - 1))
    elif samples.dtype.kind != "f":
        raise AudioError(f"samples of type {samples.dtype}; give floats of full scale 1, or integers of 16 bits")
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > max(1, len(samples))):
        raise AudioError(f"samples of shape {samples.shape}; give [frames] or [frames, channels]")
    channels = samples.astype(np.float32, copy=False)
    levels = Levels(int(rate), 1 if channels.ndim == 1 else channels.shape[1])
    return _finite(_resampled([_not_empty(channels)], levels)), levels


@_unwarned
def measured_pcm16(path: Path, start: float = 0.0, seconds: float | None = None) -> tuple[np.ndarray, Levels]:
    """Load like `measured`, rounded to int16 [samples]; 16-bit mono at 16 kHz is not converted."""
    with _opened(path, whole=not start and seconds is None) as file:
        part = _part(file, start, seconds)
        if (file.samplerate, file.channels, file.subtype) != (SAMPLE_RATE, 1, "PCM_16"):
            waveform, levels = _cut(*_waveform(file, *part), seconds)
            return to_pcm16(waveform), levels
        pcm = _not_empty(_read(file, *part, "int16"), file)
        _check_claims(file, len(pcm), part)
        return _cut(pcm, Levels(SAMPLE_RATE, 1).add(pcm), seconds)


@_unwarned
def examine(path: Path, start: float = 0.0, seconds: float | None = None) -> Levels:
    """Decode a file, or the part that `load` would return, block by block, and return its levels.

    Raises AudioError like `load`, and if the file ends before its header says (it is truncated, and its transcription
    would not match) or continues after it, which is not read.
    """
    whole = not start and seconds is None
    with _opened(path, whole) as file:
        part = (0, None) if whole else _part(file, start, seconds)
        levels = _levels(file)
        for block in _blocks(file, *part, PROBE_FRAMES):
            levels.add(_not_empty(block, file), _mono(block))
            if not np.isfinite(block).all():
                raise AudioError("the audio holds values that are not finite")
        _check_claims(file, levels.frames, part)
        levels.cut = _length(levels.samples, seconds)
        return levels


def _check_claims(file: File, frames: int, part: tuple[int, int | None]) -> None:
    """Raise AudioError if a completely read file is shorter than its header says by 0.1 s, or by 2% for an MP3, whose
    header may be an estimate."""
    claimed = file.claims if isinstance(file, containers.Container) else file.frames
    if part[0] or part[1] not in (None, file.frames) or not claimed:
        return
    slack, hint = (0.02, " (or it is an MP3 that does not say its length: convert it)") if _is_mp3(file) else (0.0, "")
    seconds, claims = frames / file.samplerate, claimed / file.samplerate
    if cut := CUT.search(file.extra_info):  # libsndfile has set `frames` to what exists
        stated, actual = map(int, cut.groups())
        claims *= stated / actual if actual and not UNKNOWN_BYTES <= stated <= LARGEST else 1
    if seconds < (1 - slack) * claims - 0.1:
        raise AudioError(f"the file is cut short: {seconds:.2f} of {claims:.2f} s are there{hint}")


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        return "it is a folder"
    return "there is no such file" + ("; write paths with / in place of \\" if "\\" in str(path) else "")


@contextmanager
def _opened(path: Path | BinaryIO, whole: bool) -> Iterator[File]:
    """Open an audio file by libsndfile, or else by PyAV; `whole` looks for damage that neither reports."""
    try:
        with ExitStack() as stack:
            if isinstance(path, Path) and not path.is_file():
                raise AudioError(_why_no_file(path))
            if isinstance(path, Path) and not path.stat().st_size:
                raise AudioError("the file is empty")
            data = stack.enter_context(open(path, "rb")) if isinstance(path, Path) else path
            if kind := containers.format_of(data):
                yield stack.enter_context(containers.Container(path, kind))
                return
            if whole and data.read(4) == b"OggS" and (fault := ogg.damage(data)):
                raise AudioError(fault)
            header_lengths.check(data)
            source = wav.repaired(data) or path
            file = stack.enter_context(soundfile.SoundFile(source))
            if file.format not in CHECKED:
                raise AudioError(f"a file of the form {file.format_info}, of which a cut one looks whole; convert it")
            if whole and _is_mp3(file):
                data.seek(0)
                file = stack.enter_context(soundfile.SoundFile(data))
            yield file
            if whole and _is_mp3(file):
                _check_end(data, file)
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: a file named like a headerless one
        raise AudioError(first_line(error)) from error


def _is_mp3(file: File) -> bool:
    return file.format == "MP3"


def _check_end(data: BinaryIO, file: File) -> None:
    """Raise AudioError if an MP3 continues after what was read: libsndfile computes the length from the bit rate of the
    first frame."""
    rest = data.read(FEW_FRAMES)
    if len(rest) == FEW_FRAMES and rest[0] == 0xFF and rest[1] >= 0xE0:  # a frame header
        seconds = file.tell() / file.samplerate
        raise AudioError(f"an MP3 that does not say its length: it continues after {seconds:.2f} s; convert it")


def _part(file: File, start: float, seconds: float | None) -> tuple[int, int | None]:
    """Return the first frame and the number of frames of a part of a file, None for all."""
    wanted = None if seconds is None else round(seconds * file.samplerate)
    first = round(start * file.samplerate)
    if file.frames is None:
        return first, wanted
    if first and first >= file.frames:
        raise AudioError(f"a part from {start:g} s on begins after the end of its file")
    rest = file.frames - first
    return first, rest if wanted is None else min(wanted, rest)


def _waveform(file: File, first: int, frames: int | None, longest: float | None = None) -> tuple[np.ndarray, Levels]:
    most = None if longest is None else _most_frames(file, longest)
    claimed = file.claims if frames is None else frames
    if most is not None and (claimed or 0) > most:
        raise _too_long(longest)
    wanted, levels = most + 1 if most is not None and frames is None else frames, _levels(file)
    mono = _resampled(_blocks(file, first, wanted, _block_frames(file)), levels)
    if most is not None and levels.frames > most:
        raise _too_long(longest)
    _check_claims(file, levels.frames, (first, frames))
    return _finite(mono, file), levels


def _most_frames(file: File, longest: float) -> int:
    """Return the number of frames in `longest` seconds; AudioError if a second has too many values."""
    if file.samplerate * file.channels > VALUES_PER_SECOND:
        raise AudioError(
            f"{file.channels} channels at {file.samplerate} Hz are more than {VALUES_PER_SECOND:,} values a second"
        )
    return int((longest + 0.5 / SAMPLE_RATE) * file.samplerate)


class TooLong(AudioError):
    """Audio that lasts longer than it may."""


def _too_long(longest: float | None) -> TooLong:
    return TooLong(f"it lasts more than {longest:g} s")


def _resampled(blocks: Iterable[np.ndarray], levels: Levels) -> np.ndarray:
    """Convert blocks [frames] or [frames, channels] to float32 mono at 16 kHz, and add them to the levels."""
    parts, stream = [], None
    if levels.rate != SAMPLE_RATE:  # its output does not depend on the blocks
        stream = soxr.ResampleStream(levels.rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        if len(block):
            mono = _mono(block)
            levels.add(block, mono)
            mono = mono.astype(np.float32, copy=False)
            parts.append(mono if stream is None else stream.resample_chunk(mono))
    if stream is not None:
        parts.append(stream.resample_chunk(np.empty(0, np.float32), last=True))
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.float32)])


def _finite(samples: np.ndarray, file: File = None) -> np.ndarray:
    if not np.isfinite(_not_empty(samples, file)).all():
        raise AudioError("the audio holds values that are not finite")
    return samples


def _levels(file: File) -> Levels:
    return Levels(file.samplerate, file.channels, file.subtype)


def _mono(channels: np.ndarray) -> np.ndarray:
    # Column by column: numpy's mean over the last axis takes longer than decoding.
    return channels if channels.ndim == 1 else sum(channels.T) / np.float32(channels.shape[1])


def _cut(waveform: np.ndarray, levels: Levels, seconds: float | None) -> tuple[np.ndarray, Levels]:
    """Remove the extra sample that rounding at the file's own rate may add to a part."""
    levels.cut = _length(len(waveform), seconds)
    return waveform[: levels.cut], levels


def _length(samples: int, seconds: float | None) -> int | None:
    """Return how many of `samples` samples at 16 kHz a part of `seconds` keeps, None for a whole file; AudioError if
    there are too few."""
    if seconds is None:
        return None
    if samples < (seconds - PART_SECONDS) * SAMPLE_RATE:
        raise AudioError(f"only {samples / SAMPLE_RATE:.2f} of {seconds:.2f} s are there")
    return min(samples, round(seconds * SAMPLE_RATE))


def _read(file: File, first: int, frames: int | None, dtype: str) -> np.ndarray:
    """Read a part's samples, [frames] or [frames, channels]; memory follows the actual length, not the header."""
    blocks = list(_blocks(file, first, frames, _block_frames(file), dtype))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _block_frames(file: File) -> int:
    return max(1, READ_VALUES // file.channels)


def _blocks(file: File, first: int, frames: int | None, size: int, dtype: str = "float32") -> Iterator[np.ndarray]:
    """Yield a part's samples in blocks of `size` frames, the last one shorter; one empty block if there are none."""
    if first:
        file.seek(first)
    left = 1 << 62 if frames is None else frames
    yield (block := file.read(min(left, size), dtype=dtype))
    while len(block) == size and (left := left - size):
        if len(block := file.read(min(left, size), dtype=dtype)):
            yield block


def _not_empty(samples: np.ndarray | int, file: File = None) -> np.ndarray:
    if not (samples.size if isinstance(samples, np.ndarray) else samples):
        size = os.path.getsize(file.name) if isinstance(getattr(file, "name", None), str | Path) else 0
        rest = f", but the file has {size} bytes: was its recorder killed?" if size > HEADER else ""
        raise AudioError(f"the audio is empty{rest}")
    return samples  # type: ignore[return-value]
