"""Short tones and the records that name them."""

import json
from pathlib import Path

import numpy as np
import soundfile

TURN = {"role": "user", "content": "<start_audio><|AUDIO|><end_audio>\nWho speaks?"}


def tone(path: Path, hertz: float, seconds: float = 0.2, rate: int = 22_050, channels: int = 1) -> None:
    """Write a sine, each channel half as loud as the one before; its format is the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, np.stack([wave / 2**channel for channel in range(channels)], axis=1), rate)


def record(name: str, *paths: Path, **metadata: str) -> dict:
    """An answered record over the given audios."""
    return {
        "id": name,
        "audios": [{"path": str(path), "text": "hello", "duration": 0.2} for path in paths],
        "messages": [{**TURN, "content": "<|AUDIO|>" * (len(paths) - 1) + TURN["content"]}],
        "metadata": metadata,
        "response": "A tone.",
        "source": "test",
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(path: Path) -> list[dict]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
