"""Whisper's rates, the same for every checkpoint, and a check of its window; imports nothing."""

SAMPLE_RATE = 16_000  # Hz, of its input waveforms
POSITIONS_PER_SECOND = 50  # of its encoder


def check_window(lengths: list[int], window: int) -> None:
    """Raise ValueError if one of these lengths in samples exceeds a window of `window` seconds."""
    seconds = max(lengths, default=0) / SAMPLE_RATE
    if seconds > window:
        raise ValueError(f"an audio of {seconds:.2f} s exceeds the encoder's window of {window} s")
