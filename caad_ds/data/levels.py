"""Whether an audio is usable: what is measured of it, and the rules that ingest, annotate, pack and training share."""

import argparse
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from caad_ds.errors import UserError

SAMPLE_RATE = 16_000
FULL_SCALE = 32767 / 32768  # of 16 bit
TOPS = {"PCM_U8": 127 / 128, "PCM_S8": 127 / 128, "ULAW": 32124 / 32768, "ALAW": 32256 / 32768}  # lower than that
LOUDEST = 4.0  # of full scale; what a lossy codec or a resampler overshoots by is less
CLIPPED = 0.1  # share of the samples at full scale
QUIETEST = 1 / 32768  # between the lowest and the highest sample
CANCELLED = 0.02  # power of the mono mix over the channels', times their number; 1 where they have nothing in common
SHORTEST = 400  # samples at 16 kHz, 25 ms: the encoder's spectrogram looks at as many at once

RULES = {
    "long": "longer than the encoder's window",
    "short": f"fewer than {SHORTEST} samples at 16 kHz",
    "scale": f"samples beyond {LOUDEST:g} times full scale, such as integers in a file of floats",
    "clipped": f"more than {CLIPPED:.0%} of the samples at full scale",
    "silent": "all samples alike",
    "cancelled": "channels in opposite phase, which cancel in the mono mix",
}
MAX_SECONDS = 30.0  # Whisper's window
ALLOWED = tuple(rule for rule in RULES if rule != "long")


@dataclass
class Levels:
    """What is known of an audio when its blocks, at its own `rate` and with all channels, have been added.

    `peak` and `clipped` (a number of samples) are over all channels, `low` and `high` of the mono mix; the powers are
    sums of squares. `full_scale` is the highest sample that the file's encoding has (`TOPS`). `cut` is the number of
    samples at 16 kHz where it is less than the frames come to.
    """

    rate: int
    channels: int
    frames: int = 0
    peak: float = 0.0
    clipped: int = 0
    low: float = np.inf
    high: float = -np.inf
    power: float = 0.0
    mono_power: float = 0.0
    cut: int | None = None
    full_scale: float = FULL_SCALE

    @property
    def samples(self) -> int:
        """The samples that resampling to 16 kHz gives, and `load` therefore."""
        whole = (2 * self.frames * SAMPLE_RATE + self.rate) // (2 * self.rate)
        return whole if self.cut is None else min(self.cut, whole)

    @property
    def seconds(self) -> float:
        """The length of those samples."""
        return self.samples / SAMPLE_RATE

    def add(self, block: np.ndarray, mono: np.ndarray | None = None) -> "Levels":
        """Take a block [frames] or [frames, channels] into account, and its mono mix [frames] if there are several."""
        mono = block if mono is None else mono
        full = 1.0
        if block.dtype == np.int16:
            full = 32768.0
        top, bottom = float(block.max()), float(block.min())
        self.frames += len(block)
        self.peak = max(self.peak, top / full, -bottom / full)
        if max(top, -bottom) >= (limit := self.full_scale * full):
            self.clipped += int(np.count_nonzero(block >= limit))
            self.clipped += int(np.count_nonzero(block <= -limit))
        if mono is block:
            self.low, self.high = min(self.low, bottom / full), max(self.high, top / full)
        else:
            self.low, self.high = min(self.low, float(mono.min())), max(self.high, float(mono.max()))
            self.power += float(np.dot(block.ravel(), block.ravel()))
            self.mono_power += float(np.dot(mono, mono))
        return self


@dataclass(frozen=True)
class Rules:
    """Which audio is usable: of at most `max_seconds` (None: any length), and of the other rules all but `allow`."""

    max_seconds: float | None = None
    allow: tuple[str, ...] = ()

    def fault(self, levels: Levels) -> str | None:
        """The first rule that an audio breaks and how, as `rule: reason`; None where it is usable."""
        return next(
            (f"{rule}: {why}" for rule, why in faults(levels, self.max_seconds) if rule not in self.allow), None
        )

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Rules":
        """The rules that the arguments of `add_rules` name."""
        limit = getattr(args, "max_seconds", None)
        if limit is not None and not 0 < limit < np.inf:
            raise UserError(f"--max-seconds {limit:g}: it must be a number above 0")
        return cls(limit, tuple(sorted(set(args.allow))))

    def content(self) -> dict:
        """The rules as they stand in settings and in the index of shards."""
        return {"max_seconds": self.max_seconds, "allow": sorted(self.allow)}


DEFAULT = Rules(MAX_SECONDS)


def add_rules(parser: argparse.ArgumentParser, max_seconds: bool = True) -> None:
    """Add the arguments of a command that judges audio."""
    if max_seconds:
        parser.add_argument(
            "--max-seconds", type=float, default=MAX_SECONDS, help="the encoder's window (default %(default)s)"
        )
    parser.add_argument(
        "--allow", nargs="+", choices=ALLOWED, default=[], metavar="RULE",
        help=f"keep audio that breaks it, such as recorded silence: {', '.join(ALLOWED)}",
    )  # fmt: skip


def longer(seconds: float, limit: float) -> bool:
    """Whether a length exceeds a limit (both in seconds) in samples at 16 kHz."""
    return round(seconds * SAMPLE_RATE) > round(limit * SAMPLE_RATE)


def faults(levels: Levels, max_seconds: float | None = None) -> Collection[tuple[str, str]]:
    """Every rule that an audio breaks, with the reason: one that is allowed hides no other, such as the silence that
    channels in opposite phase leave."""
    found = []
    if max_seconds is not None and longer(levels.seconds, max_seconds):
        found.append(("long", f"{levels.samples:,} samples at 16 kHz, more than {max_seconds:g} s"))
    if levels.samples < SHORTEST:
        found.append(("short", f"{levels.samples} samples at 16 kHz, fewer than {SHORTEST}"))
    if levels.peak > LOUDEST:
        found.append(
            ("scale", f"its samples reach {levels.peak:.6g}, full scale is 1; divide them, 16-bit ones by 32768")
        )
    if (share := levels.clipped / max(1, levels.frames * levels.channels)) > CLIPPED:
        found.append(("clipped", f"{share:.0%} of its samples are at full scale"))
    if (
        levels.channels > 1
        and levels.mono_power * levels.channels**2 < CANCELLED * levels.power
        and levels.peak >= QUIETEST
    ):
        found.append(("cancelled", "its channels are in opposite phase and cancel in the mono mix; export one of them"))
    if levels.high - levels.low < QUIETEST:
        found.append(("silent", "all its samples are alike"))
    return found
