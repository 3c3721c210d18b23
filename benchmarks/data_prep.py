"""Speed of packing, reading and annotating: seconds of audio per second of one core.

    python benchmarks/data_prep.py [--minutes 30] [--repeats 5] [--only pack read annotate]

Core seconds are the process's CPU time, so that other work on the machine matters less; each figure is the best of the
repeats. Each is compared with the unavoidable work, timed in turns with it: for packing, libsndfile's decoding, soxr's
resampling if the rate differs, and libsndfile's FLAC encoding; for reading, libsndfile's decoding from memory. The
clips are noise with the spectrum and pauses of speech, 2 to 12 s, 16-bit, in the page cache. For `prep annotate`, which
has no such reference, they are eSpeak's speech in four voices, 5 s long.
"""

import argparse
import io
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cpu_name
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.data.stream import StreamReader
from caad_ds.data.tar_members import parse
from data_prep.annotate import annotators
from data_prep.common.manifest import write_manifest
from data_prep.pack.pack import pack
from data_prep.synthetic.espeak import speak

FILES = 60  # files that the records share
TEXT = "the big dog finds my old table today and the teacher likes bread and water and my sister sings in the evening "
VOICES = ("en-us+f3", "en-us+m3", "en-gb-scotland+m7", "en-us+Annie")
SPOKEN_SECONDS = 5.0  # of each clip for annotate
RATE = 16_000
INPUTS = {
    "WAV 16 kHz": ("wav", 16_000, 1),
    "WAV 48 kHz": ("wav", 48_000, 1),
    "WAV 44.1 kHz stereo": ("wav", 44_100, 2),
    "FLAC 48 kHz": ("flac", 48_000, 1),
    "MP3 44.1 kHz stereo": ("mp3", 44_100, 2),
    "Ogg Vorbis 44.1 kHz stereo": ("ogg", 44_100, 2),
}


def clip(rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """Return noise that falls off above 500 Hz, in bursts of half a second."""
    samples = int(seconds * rate)
    frequency = np.fft.rfftfreq(samples, 1 / rate)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) / (1 + (frequency / 500) ** 1.5)
    wave = np.fft.irfft(spectrum, samples) * np.sin(2 * np.pi * np.arange(samples) / rate) ** 2
    return 0.3 * wave / np.abs(wave).max()


def corpus(folder: Path, kind: tuple[str, int, int], minutes: float) -> tuple[Path, list[Path], float]:
    """Write a manifest with `minutes` of audio; returns it, the file of each record, and the total seconds."""
    suffix, rate, channels = kind
    rng, lengths = np.random.default_rng(0), []
    for number in range(FILES):
        wave = clip(rng, rng.uniform(2, 12), rate)
        lengths.append(len(wave) / rate)
        soundfile.write(folder / f"{number}.{suffix}", np.stack([wave] * channels, axis=1), rate)
    count = round(minutes * 60 / (sum(lengths) / FILES))
    files = [folder / f"{number % FILES}.{suffix}" for number in range(count)]
    write_manifest(folder / "manifest.jsonl", [record(f"clip{number}", path) for number, path in enumerate(files)])
    return folder / "manifest.jsonl", files, sum(lengths[number % FILES] for number in range(count))


def record(name: str, path: Path) -> dict:
    """Return an answered record of typical length."""
    turn = "<start_audio><|AUDIO|><end_audio>\nWhat emotion does the speaker convey: anger, joy or sadness?"
    return {
        "id": name,
        "audios": [{"path": str(path), "text": "the hogs were fed chopped corn and garbage", "duration": 7.0}],
        "messages": [{"role": "user", "content": turn}],
        "metadata": {"gender": "female", "accent": "american", "emotion": "joy"},
        "seed_description": "[00:00-00:07] The hogs were fed chopped corn and garbage. (Gender: Female, Emotion: Joy)",
        "response": "The speaker sounds joyful: her voice is bright, and the sentence ends on a rise.",
    }


def least(files: list[Path]) -> None:
    """Decode, resample and encode the files, nothing else."""
    for path in files:
        with soundfile.SoundFile(path) as file:
            plain = (file.samplerate, file.channels) == (RATE, 1)
            samples, rate = file.read(dtype="int16" if plain else "float32"), file.samplerate
        if not plain:
            mono = samples if samples.ndim == 1 else (samples[:, 0] + samples[:, 1]) / 2
            samples = (soxr.resample(mono, rate, RATE) * 32767).astype("<i2")
        soundfile.write(io.BytesIO(), samples, RATE, subtype="PCM_16", format="FLAC")


def best(steps: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the minimal core seconds of each step, timed in turns."""
    times = []
    for _ in range(repeats):
        times.append([])
        for step in steps:
            start = time.process_time()
            step()
            times[-1].append(time.process_time() - start)
    return [min(column) for column in zip(*times, strict=True)]


def pack_rows(root: Path, minutes: float, repeats: int) -> None:
    """Print the table of packing."""
    print("| input | pack | decode, resample, encode alone | ratio |\n|---|---|---|---|")
    for name, kind in INPUTS.items():
        (root / name).mkdir()
        manifest, files, seconds = corpus(root / name, kind, minutes)

        def packed(manifest: Path = manifest) -> None:
            shutil.rmtree(root / "out", ignore_errors=True)
            pack(manifest, root / "out")

        took, floor = best([packed, lambda files=files: least(files)], repeats)
        print(row(name, seconds, took, floor), flush=True)
        shutil.rmtree(root / name)


def read_rows(root: Path, minutes: float, repeats: int) -> None:
    """Print the table of reading."""
    manifest, _, seconds = corpus(root, INPUTS["WAV 16 kHz"], minutes)
    pack(manifest, root / "shards")
    reader = IndexedReader(root / "shards")
    order = np.random.default_rng(0).permutation(len(reader)).tolist()
    encoded = [flac(reader, number) for number in range(len(reader))]

    def floor() -> None:
        for data in encoded:
            soundfile.read(io.BytesIO(data), dtype="float32")

    def stream() -> None:
        fresh = StreamReader(str(root / "shards"), seed=0, rank=0, world_size=1, buffer=100, skip=False)
        for _ in islice(fresh.samples(30.0), len(reader)):
            pass

    def indexed() -> None:
        for number in order:
            reader[number]

    print("| reader | read and decode | decode alone | ratio |\n|---|---|---|---|")
    for name, way in (("indexed, in random order", indexed), ("stream, buffer of 100", stream)):
        took, least_ = best([way, floor], repeats)
        print(row(name, seconds, took, least_), flush=True)


def annotator_rows(minutes: float, repeats: int) -> None:
    """Print the table of annotating."""
    waves = [spoken(number) for number in range(max(1, round(minutes * 60 / SPOKEN_SECONDS)))]
    print("| annotator | of real time |\n|---|---|")
    for name in ("duration", "loudness", "pitch", "snr", "speaking_rate"):
        measure = annotators.measure_of(name)
        measure(waves[0])  # compiles, or reads its table
        (took,) = best([lambda measure=measure: [measure(wave) for wave in waves]], repeats)
        print(f"| {name} | {SPOKEN_SECONDS * len(waves) / took:,.0f} |", flush=True)


def spoken(number: int) -> np.ndarray:
    """Return speech, float32; voice and rate cycle with `number`."""
    voice, rate = VOICES[number % len(VOICES)], 110 + 10 * (number // len(VOICES) % 6)
    return speak(2 * TEXT, voice, rate, 50)[: int(SPOKEN_SECONDS * RATE)]


def flac(reader: IndexedReader, number: int) -> bytes:
    """Return the FLAC file of a sample."""
    _, (data,) = parse(reader.read(number), reader.index.locate(number)[1].key)
    return data


def row(name: str, seconds: float, took: float, floor: float) -> str:
    """Format a line of a table."""
    return f"| {name} | {seconds / took:,.0f} | {seconds / floor:,.0f} | {took / floor:.2f} |"


TABLES = ("pack", "read", "annotate")


def main(argv: list[str] | None = None) -> None:
    """Print the versions and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of audio per row of pack and read (default 30)")
    parser.add_argument("--spoken", type=float, default=1.5, help="minutes of audio per row of annotate (default 1.5)")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns (default 5)")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, help="tables to print (default all)")
    args = parser.parse_args(argv)
    libraries = f"{soundfile.__libsndfile_version__}, soxr {version('soxr')}, numpy {version('numpy')}"
    print(f"libsndfile {libraries}, Python {platform.python_version()}, {cpu_name()}")
    for table in args.only:
        print()
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
            if table == "pack":
                pack_rows(Path(folder), args.minutes, args.repeats)
            elif table == "read":
                read_rows(Path(folder), args.minutes, args.repeats)
            else:
                annotator_rows(args.spoken, args.repeats)


if __name__ == "__main__":
    main()
