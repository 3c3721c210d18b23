"""Audio markers in messages; used by data preparation and models, so it imports nothing heavy."""

AUDIO = "<|AUDIO|>"
START_AUDIO = "<start_audio>"
END_AUDIO = "<end_audio>"
MARKERS = (AUDIO, START_AUDIO, END_AUDIO)


def user_content(question: str, hint: str | None = None, audios: int = 1) -> str:
    """Write a user turn: one marked span per audio, then the hint (if any) and the question on one line."""
    span = f"{START_AUDIO}{AUDIO}{END_AUDIO}\n"
    text = question if hint is None else f"{hint} {question}"
    return span * audios + text
