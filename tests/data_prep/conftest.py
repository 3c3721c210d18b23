"""Small corpora and a command runner for the preparation steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep import describe
from tests.command import run_command
from tests.data_prep.llm import make_llm
from tests.data_prep.questions import prompt, question
from tests.root import CONFIGS


@pytest.fixture
def prep():
    """Runs a command module as the console script does: `prep(module, "--out", path, ...)`."""
    return run_command


@pytest.fixture
def instructions() -> Path:
    return CONFIGS / "demo" / "instructions.yaml"


@pytest.fixture
def tone(tmp_path):
    """Writes a tone of so many seconds and returns its path."""

    def write(name: str, seconds: float = 1.2, rate: int = 16_000) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.sin(np.arange(int(seconds * rate)) * 0.1), rate)
        return path

    return write


@pytest.fixture
def write_lines(tmp_path):
    """Writes rows (or raw lines) as a JSONL file and returns its path."""

    def write(name: str, rows: list) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
        return path

    return write


@pytest.fixture
def manifest(tone, write_lines):
    """An ingested manifest of eight clips with all attributes."""
    rows = []
    for number in range(8):
        tone(f"clips/{number}.wav")
        values = {"gender": "female" if number % 2 else "male", "speaking_rate": "fast", "noise": "noisy"}
        rows.append(
            {
                "id": f"clip{number}",
                "audios": [{"path": f"clips/{number}.wav", "text": "the dog finds bread", "duration": 1.2}],
                "metadata": {**values, "accent": "scottish", "voice": "f1"},
            }
        )
    return write_lines("manifest.jsonl", rows)


@pytest.fixture
def described(tmp_path, manifest, instructions, prep):
    """The eight clips with a question each, and a false hint that Stage 1 must not see."""
    out = tmp_path / "described.jsonl"
    prep(describe, "--manifest", manifest, "--out", out, "--instructions", instructions, "--hints", "adversarial=1")
    return out


@pytest.fixture
def source(write_lines):
    """A described manifest with all that a line can be."""
    rows = [question(number) for number in range(40)]
    rows[3]["response"] = "given"
    rows[5]["metadata"] = {}  # the template engine cannot answer it
    rows[9]["metadata"] = prompt("Who?", "As an AI, I pass.")
    rows[11]["id"] = "clip5"  # the id of a rejected record
    rows[12]["id"] = "clip2"  # the id of an answered one
    return write_lines("described.jsonl", [*rows[:20], '{"id": "cut', {"id": "no audios"}, *rows[20:]])


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory):
    """The folder of a random Llama."""
    return make_llm(tmp_path_factory.mktemp("llm"))
