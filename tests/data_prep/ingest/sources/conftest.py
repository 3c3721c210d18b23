"""A miniature corpus, and `caad-ds prep ingest` over it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from caad_ds.cli import main
from tests.root import CONFIGS

INSTRUCTIONS = CONFIGS / "paper" / "instructions.yaml"


@dataclass
class Ingested:
    """What an ingest wrote: the records by id, and the reasons of those rejected, by id or line."""

    records: dict[str, dict]
    rejected: dict[str, str]

    def reason(self, ending: str) -> str:
        """The reason of the one that was rejected under a name with that ending."""
        (reason,) = (text for name, text in self.rejected.items() if name.endswith(ending))
        return reason


@pytest.fixture
def corpus(tmp_path, tone):
    """Writes files of a corpus below `tmp_path/corpus`: `corpus(path)` a short clip, `corpus(path, text)` a text."""

    def write(name: str, text: str | None = None) -> Path:
        path = tmp_path / "corpus" / name
        if text is None:
            return tone(f"corpus/{name}", 0.3)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.fixture
def ingest(tmp_path):
    """Runs `caad-ds prep ingest SOURCE` over `tmp_path/corpus`."""

    def run(source: str) -> Ingested:
        out = tmp_path / f"{source}.jsonl"
        assert main(["prep", "ingest", source, "--root", str(tmp_path / "corpus"), "--out", str(out)]) == 0
        records, rejected = (_rows(path) for path in (out, out.with_name(f"{source}.rejected.jsonl")))
        for record in records:
            assert all(Path(audio["path"]).parts[0] == "corpus" for audio in record["audios"])
            assert record["audios"][0]["duration"] == 0.3 and record["source"] == source
        assert len({record["id"] for record in records}) == len(records)
        if records:  # the paper's instructions know every value that a source gives
            described = tmp_path / f"{source}.described.jsonl"
            arguments = ["--manifest", str(out), "--instructions", str(INSTRUCTIONS), "--out", str(described)]
            assert main(["prep", "describe", *arguments]) == 0
            assert not described.with_name(f"{source}.described.rejected.jsonl").exists()
        return Ingested({row["id"]: row for row in records}, {row["id"]: row["reason"] for row in rejected})

    return run


@pytest.fixture
def refused(tmp_path, capsys):
    """The message with which `caad-ds prep ingest SOURCE` refuses `tmp_path/corpus`."""

    def run(source: str) -> str:
        out = tmp_path / "refused.jsonl"
        assert main(["prep", "ingest", source, "--root", str(tmp_path / "corpus"), "--out", str(out)]) == 2
        assert not out.exists()
        return capsys.readouterr().err

    return run


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
