"""`prep add-noise`: add noise to half of the records of recorded speech, as an attribute to ask about.

Both halves are written in the same format (16 kHz FLAC), so only the noise distinguishes them. The records are ranked
by a hash of seed and id; the first half becomes noisy. Babble is mixed from other clips of the same manifest, so split
first and add noise to each split: then each is balanced, and no test clip is heard in training.
"""

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from caad_ds.data.audio import decode, flac, pcm16
from caad_ds.data.record import Audio, Record
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_atomic
from caad_ds.utils.formatting import counted
from caad_ds.utils.progress import track
from data_prep.annotate.annotators import brouhaha, loudness, snr
from data_prep.common.audio_entry import cut_out, waveform
from data_prep.common.hashing import digest, fraction
from data_prep.common.jsonl import Rejected
from data_prep.common.manifest import check_output, read_manifest, write_manifest
from data_prep.common.rejects import Rejects

KINDS = ("white", "pink", "babble")
BABBLE_VOICES = 4
MEASURED = (*snr.KEYS, *brouhaha.KEYS, *loudness.KEYS)  # measures that adding noise makes wrong


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prep add-noise`."""
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of clean recordings (JSONL)")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument("--audio-dir", type=Path, required=True, help="folder for the noisy audio")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--snr",
        type=_range,
        default=(0.0, 12.0),
        metavar="LOW:HIGH",
        help="range of the signal-to-noise ratio, in dB (default 0:12)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the audio, then the manifest and, beside it, the list of rejected records."""
    check_output(args.out, args.manifest)
    with Rejects(args.out) as rejects:
        records = list(rejects.sift(read_manifest(args.manifest)))
        done = list(rejects.sift(add_noise(records, args.audio_dir, args.seed, args.snr))) if records else []
        if not write_manifest(args.out, done):
            raise UserError(f"{args.manifest}: it holds no usable record{rejects.why}")
    noisy = sum((record["metadata"] or {})["noise"] == "noisy" for record in done)
    rejects.report()
    print(f"{args.out}: {noisy} noisy and {counted(len(done) - noisy, 'clean record')}{rejects.summary}")
    return 0


def add_noise(
    records: list[Record], folder: Path, seed: int = 0, snr: tuple[float, float] = (0.0, 12.0)
) -> list[Record | Rejected]:
    """Write the audio below `folder`; returns the records with `noise: noisy | clean` in their metadata, and a
    `Rejected` in place of one whose audio does not decode.

    The kind of noise and its level in the range `snr` (dB over the whole clip) are drawn uniformly. Raises UserError
    for too few records to mix babble, for a record whose noise or loudness was measured before, and for a full disk.
    """
    for record in records:
        if key := next((key for key in MEASURED if key in (record.get("metadata") or {})), None):
            raise UserError(
                f"record {record['id']!r}: its {key!r} was measured without the noise; add noise first, then run "
                "`caad-ds prep annotate` on what that gives"
            )
    if len(records) <= BABBLE_VOICES:
        raise UserError(f"{len(records)} records are too few to draw babble from: give at least {BABBLE_VOICES + 1}")
    ranked = sorted((record["id"] for record in records), key=lambda name: fraction(f"noisy:{seed}:{name}"))
    noisy = set(ranked[: len(ranked) // 2])
    done: list[Record | Rejected] = []
    for record in track(records, "adding noise", len(records)):
        try:
            done.append(_convert(record, records, folder, seed, snr if record["id"] in noisy else None))
        except decode.AudioError as error:
            done.append(Rejected(record["id"], str(error)))
    return done


def mix(speech: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Mix speech and noise at `snr` dB (ratio of mean powers): float32 [samples], scaled down if it would clip."""
    gain = np.sqrt(np.mean(speech**2) / max(np.mean(noise**2), 1e-12) / 10 ** (snr / 10))
    mixed = speech + gain * noise
    return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)


def _convert(record: Record, records: list[Record], folder: Path, seed: int, snr: tuple[float, float] | None) -> Record:
    """Write the record's audio, with noise if `snr` is given; files are named by content, so manifests may share a
    folder."""
    rng = np.random.default_rng(list(digest(f"noise:{seed}:{record['id']}")))
    audios: list[Audio] = []
    for entry in record["audios"]:
        speech = waveform(entry)
        if snr:
            speech = mix(speech, _noise(record, records, speech.size, rng), rng.uniform(*snr))
        data = flac.encode(pcm16.to_pcm16(speech))
        path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}.flac"
        write_atomic(path, data)
        seconds = speech.size / decode.SAMPLE_RATE
        audios.append({**cut_out(entry), "path": path.as_posix(), "duration": seconds})
    metadata = {**(record.get("metadata") or {}), "noise": "noisy" if snr else "clean"}
    return {**record, "audios": audios, "metadata": metadata}


def _noise(record: Record, records: list[Record], length: int, rng: np.random.Generator) -> np.ndarray:
    kind = rng.choice(KINDS)
    if kind == "babble":
        return _babble(record, records, length, rng)
    white = rng.standard_normal(length)
    if kind == "white":
        return white
    # Pink: power falls as 1 / f down to the lowest frequency; background_noise.py's is flat below 30 Hz. Sharing one
    # function would change the audio behind the demo's table or docs/results/recorded_speech.md.
    spectrum = np.fft.rfft(white)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(spectrum.size), 1)), length)


def _babble(record: Record, records: list[Record], length: int, rng: np.random.Generator) -> np.ndarray:
    """Sum other clips at equal power, each repeated to the length from a random start; AudioError if too few decode."""
    total = np.zeros(length)
    others = (records[number] for number in rng.permutation(len(records)) if records[number]["id"] != record["id"])
    voices = list(islice(_decoded(others), BABBLE_VOICES))
    if len(voices) < BABBLE_VOICES:
        raise decode.AudioError(f"only {len(voices)} of the other clips decode, too few to draw babble from")
    for voice in voices:
        voice = np.resize(np.roll(voice, rng.integers(voice.size)), length)
        total += voice / max(np.sqrt(np.mean(voice**2)), 1e-6)
    return total


def _decoded(records: Iterable[Record]) -> Iterator[np.ndarray]:
    """Yield the first audio of each record, if it decodes."""
    for record in records:
        with suppress(decode.AudioError):  # the record itself is rejected when its turn comes
            yield waveform(record["audios"][0])


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        bounds = float(low), float(high)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW:HIGH in dB, such as 0:12") from None
    if bounds[0] > bounds[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: the low end is above the high end")
    return bounds
