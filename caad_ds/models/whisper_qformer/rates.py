"""Whisper's rates, which are the same for every checkpoint, and its window; imports nothing."""

SAMPLE_RATE = 16_000  # Hz, of the waveforms that it takes
POSITIONS_PER_SECOND = 50  # of its encoder


def check_window(lengths: list[int], window: int) -> None:
    """Raise ValueError where one of these numbers of samples is longer than a window of so many seconds."""
    seconds = max(lengths, default=0) / SAMPLE_RATE
    if seconds > window:
        raise ValueError(f"an audio of {seconds:.2f} s exceeds the encoder's window of {window} s")
