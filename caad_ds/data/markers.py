"""How audio stands in a message; read by data preparation and models alike, so it imports nothing heavy."""

AUDIO = "<|AUDIO|>"
START_AUDIO = "<start_audio>"
END_AUDIO = "<end_audio>"
MARKERS = (AUDIO, START_AUDIO, END_AUDIO)


def user_content(question: str, hint: str | None = None, audios: int = 1) -> str:
    """The content of a user turn: one marked span per audio, then the hint (if any) and the question on one line."""
    span = f"{START_AUDIO}{AUDIO}{END_AUDIO}\n"
    text = question if hint is None else f"{hint} {question}"
    return span * audios + text
