"""Check whether audio is usable: its levels, and the rules that ingest, annotate, pack and training share."""

import argparse
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from caad_ds.utils.errors import UserError

SAMPLE_RATE = 16_000
FULL_SCALE = 32767 / 32768  # of 16 bit
TOPS = {"PCM_U8": 127 / 128, "PCM_S8": 127 / 128, "ULAW": 32124 / 32768, "ALAW": 32256 / 32768}  # lower than that
LOUDEST = 4.0  # of full scale; overshoot of a lossy codec or a resampler is less
CLIPPED = 0.1  # share of the samples at full scale
# The smallest difference between samples: of 16 bit, in which audio is packed, or of a coarser encoding.
STEP = 1 / 32768
STEPS = {"PCM_U8": 1 / 128, "PCM_S8": 1 / 128, "ULAW": 8 / 32768, "ALAW": 16 / 32768}
NOISE = 2  # steps between the lowest and the highest sample of mere rounding or dither
WINDOWS_PER_SECOND = 40  # of 25 ms, in which silence and cancellation are looked for
CLICKS = 2  # windows that one click may extend over
CANCELLED = 0.02  # power of the mono mix over the channels', times their number; 1 if they are uncorrelated
CANCELLED_WINDOWS = 0.1  # share of the windows that are audible relative to the loudest one
HEARD = 1e-4  # of the loudest window's power, 40 dB below it: noise between words may be in opposite phase
SHORTEST = 400  # samples at 16 kHz, 25 ms: one window of the encoder's spectrogram

RULES = {
    "long": "longer than the encoder's window",
    "short": f"fewer than {SHORTEST} samples at 16 kHz",
    "scale": f"samples beyond {LOUDEST:g} times full scale, such as integers in a file of floats",
    "clipped": f"more than {CLIPPED:.0%} of the samples at full scale",
    "silent": f"samples within {NOISE} steps of the encoding, but for a click",
    "cancelled": f"channels in opposite phase, which cancel in the mono mix, in all or {CANCELLED_WINDOWS:.0%} of it",
}
MAX_SECONDS = 30.0  # Whisper's window
ALLOWED = tuple(rule for rule in RULES if rule != "long")


@dataclass
class Levels:
    """Levels of an audio, accumulated from its blocks at its own `rate` with all channels.

    `peak` and `clipped` (a number of samples) are over all channels. Each window of 25 ms has the lowest and the
    highest sample of the mono mix, and with several channels the powers (sums of squares) of all and of the mix.
    `encoding` is libsndfile's name of the file's encoding; `cut` is the number of samples at 16 kHz, if fewer than the
    frames give.
    """

    rate: int
    channels: int
    encoding: str = "PCM_16"
    frames: int = 0
    peak: float = 0.0
    clipped: int = 0
    cut: int | None = None
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    power: list[float] = field(default_factory=list)
    mono_power: list[float] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """The number of samples after resampling to 16 kHz, as `load` returns."""
        whole = (2 * self.frames * SAMPLE_RATE + self.rate) // (2 * self.rate)
        return whole if self.cut is None else min(self.cut, whole)

    @property
    def seconds(self) -> float:
        """The length of these samples in seconds."""
        return self.samples / SAMPLE_RATE

    def add(self, block: np.ndarray, mono: np.ndarray | None = None) -> "Levels":
        """Add a block [frames] or [frames, channels], and its mono mix [frames] if there are several channels."""
        mono = block if mono is None else mono
        full = 32768.0 if block.dtype == np.int16 else 1.0
        top, bottom = float(block.max()), float(block.min())
        self.peak = max(self.peak, top / full, -bottom / full)
        if max(top, -bottom) >= (limit := TOPS.get(self.encoding, FULL_SCALE) * full):
            self.clipped += int(np.count_nonzero(block >= limit))
            self.clipped += int(np.count_nonzero(block <= -limit))
        self._add(self.low, mono, np.minimum, full)
        self._add(self.high, mono, np.maximum, full)
        if mono is not block:
            self._add(self.power, np.square(block).ravel(), np.add, per_frame=self.channels)
            self._add(self.mono_power, np.square(mono), np.add)
        self.frames += len(block)
        return self

    def _add(
        self, windows: list[float], values: np.ndarray, together: np.ufunc, full: float = 1.0, per_frame: int = 1
    ) -> None:
        """Update the windows with `per_frame` values per frame, which `together` reduces to one per window."""
        size = max(1, self.rate // WINDOWS_PER_SECOND) * per_frame
        begun = self.frames * per_frame % size
        starts = np.maximum(np.arange(-begun, len(values), size), 0)
        reduced = (together.reduceat(values, starts) / full).tolist()
        if begun:
            reduced[0] = float(together(windows.pop(), reduced[0]))
        windows += reduced

    @property
    def audible(self) -> int:
        """The number of windows with more than rounding or dither."""
        return int(np.count_nonzero(np.subtract(self.high, self.low) > NOISE * STEPS.get(self.encoding, STEP)))

    @property
    def cancelled(self) -> float:
        """The share of audible windows whose channels cancel in the mono mix; 1 if the whole audio does."""
        power, mono = np.array(self.power), np.array(self.mono_power) * self.channels**2
        if self.channels == 1 or self.peak < STEP:
            return 0.0
        if mono.sum() < CANCELLED * power.sum():
            return 1.0
        audible = power >= HEARD * power.max()
        return float(np.mean(mono[audible] < CANCELLED * power[audible]))


@dataclass(frozen=True)
class Rules:
    """Rules for usable audio: at most `max_seconds` (None: any length), and all other rules except `allow`."""

    max_seconds: float | None = None
    allow: tuple[str, ...] = ()

    def fault(self, levels: Levels) -> str | None:
        """Return the first rule that an audio breaks, as `rule: reason`; None if it is usable."""
        return next(
            (f"{rule}: {why}" for rule, why in faults(levels, self.max_seconds) if rule not in self.allow), None
        )

    @classmethod
    def of(cls, max_seconds: float | None = None, allow: Iterable[str] = ()) -> "Rules":
        """Make the rules from the values of --max-seconds and --allow; UserError for a limit that is not above 0."""
        if max_seconds is not None and not 0 < max_seconds < np.inf:
            raise UserError(f"--max-seconds {max_seconds:g}: it must be a number above 0")
        return cls(max_seconds, tuple(sorted(set(allow))))

    def content(self) -> dict:
        """Return the rules for settings and the index of shards."""
        return {"max_seconds": self.max_seconds, "allow": sorted(self.allow)}


DEFAULT = Rules(MAX_SECONDS)


def add_rules(parser: argparse.ArgumentParser, max_seconds: bool = True) -> None:
    """Add the arguments of a command that checks audio."""
    if max_seconds:
        parser.add_argument(
            "--max-seconds", type=float, default=MAX_SECONDS, help="the encoder's window (default %(default)s)"
        )
    parser.add_argument(
        "--allow", nargs="+", choices=ALLOWED, default=[], metavar="RULE",
        help=f"keep audio that breaks it, such as recorded silence: {', '.join(ALLOWED)}",
    )  # fmt: skip


def longer(seconds: float, limit: float) -> bool:
    """Return whether a length exceeds a limit (both in seconds), compared in samples at 16 kHz."""
    return round(seconds * SAMPLE_RATE) > round(limit * SAMPLE_RATE)


def faults(levels: Levels, max_seconds: float | None = None) -> Collection[tuple[str, str]]:
    """Return every rule that an audio breaks, with the reason: an allowed one must not hide another, such as the
    silence from channels in opposite phase."""
    broken = []
    if max_seconds is not None and longer(levels.seconds, max_seconds):
        broken.append(("long", f"{levels.samples:,} samples at 16 kHz, more than {max_seconds:g} s"))
    if levels.samples < SHORTEST:
        broken.append(("short", f"{levels.samples} samples at 16 kHz, fewer than {SHORTEST}"))
    if levels.peak > LOUDEST:
        broken.append(
            ("scale", f"its samples reach {levels.peak:.6g}, full scale is 1; divide them, 16-bit ones by 32768")
        )
    if (share := levels.clipped / max(1, levels.frames * levels.channels)) > CLIPPED:
        broken.append(("clipped", f"{share:.0%} of its samples are at full scale"))
    if (share := levels.cancelled) > CANCELLED_WINDOWS:
        where = "" if share == 1 else f" in {share:.0%} of its time"
        broken.append(
            ("cancelled", f"its channels are in opposite phase{where} and cancel in the mono mix; export one of them")
        )
    windows, audible = len(levels.low), levels.audible
    if not audible:
        broken.append(("silent", "all its samples are alike, but for rounding or dither"))
    elif audible <= min(CLICKS, windows // 4):
        broken.append(("silent", f"but for {audible / WINDOWS_PER_SECOND:g} s all its samples are alike"))
    return broken
