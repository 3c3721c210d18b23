"""Whisper's rates, which are the same for every checkpoint; imports nothing."""

SAMPLE_RATE = 16_000  # Hz, of the waveforms that it takes
POSITIONS_PER_SECOND = 50  # of its encoder
