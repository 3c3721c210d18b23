"""A run folder: `setup.json`, `predictions.jsonl` (append-only, one line per item and condition), `scores.json`."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from caad_ds.errors import UserError
from caad_ds.evaluation.mcr_bench import CONDITIONS
from caad_ds.files import disk_errors, drop_cut_line, read_json, write_atomic, write_json

REMEDY = "delete its folder and run again"


@dataclass(frozen=True)
class RunFolder:
    """The files of one evaluation; several ranks have a `predictions.<rank>.jsonl` each until all are done."""

    path: Path

    def open(self, setup: dict) -> list[dict]:
        """The predictions made so far under this very setup; UserError if the folder holds another one's.

        What ranks left is put into `predictions.jsonl` first, so any number of ranks goes on with it.
        """
        file = self.path / "setup.json"
        if not file.is_file():
            self._clear()
            write_json(file, setup)
            return []
        before = read_json(file, REMEDY)
        changed = [key for key in setup if before.get(key) != setup[key]]
        if changed:
            was = ", ".join(f"{key} was {_short(before.get(key))}, is {_short(setup[key])}" for key in changed)
            raise UserError(f"{self.path}: holds another evaluation ({was}); use another --out, or delete the folder")
        for part in self._files():
            drop_cut_line(part)
        self.merge()
        return self.read()

    def append(self, predictions: list[dict], rank: int | None = None) -> None:
        """Adds predictions, to a rank's own file where there are several.

        A kill leaves at most the last line cut, which `open` drops.
        """
        file = self._predictions if rank is None else self.path / f"predictions.{rank}.jsonl"
        with disk_errors(self.path), open(file, "a", encoding="utf-8") as lines:
            lines.writelines(_line(p) for p in predictions)

    def merge(self, order: Iterable[tuple[str, str | None]] = ()) -> None:
        """Puts the ranks' predictions into `predictions.jsonl`, those of `order` (id, condition) in that order.

        Nothing is lost, and nothing doubled, by a kill on the way.
        """
        parts = [file for file in self._files() if file != self._predictions]
        if not parts:
            return
        found = {(p["id"], p["condition"]): p for file in self._files() for p in _read(file)}
        place = {key: k for k, key in enumerate(order)}
        ordered = sorted(found, key=lambda key: place.get(key, len(place)))
        write_atomic(self._predictions, "".join(_line(found[key]) for key in ordered).encode())
        for part in parts:
            part.unlink()

    def read(self) -> list[dict]:
        """All predictions; UserError with the line number where one is broken."""
        return _read(self._predictions) if self._predictions.is_file() else []

    def complete(self) -> list[dict]:
        """The predictions of the items that were answered under every condition, or have none."""
        predictions = self.read()
        answered = Counter(p["id"] for p in predictions)
        return [p for p in predictions if p["condition"] is None or answered[p["id"]] == len(CONDITIONS)]

    def write_scores(self, scores: dict) -> None:
        """Writes `scores.json` whole."""
        write_json(self.path / "scores.json", scores)

    def write_disagreements(self, predictions: list[dict]) -> None:
        """Writes `disagreements.jsonl` whole: what the rules of matching judge differently."""
        write_atomic(self.path / "disagreements.jsonl", "".join(map(_line, predictions)).encode())

    def read_scores(self) -> dict:
        """`scores.json`; UserError if the evaluation has not come to its end."""
        file = self.path / "scores.json"
        if not file.is_file():
            raise UserError(f"{file}: missing; finish the run with `caad-ds evaluate --out {self.path} ...`")
        return read_json(file, REMEDY)

    @property
    def _predictions(self) -> Path:
        return self.path / "predictions.jsonl"

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("predictions*.jsonl"))

    def _clear(self) -> None:
        for file in self._files():
            file.unlink()


def _read(file: Path) -> list[dict]:
    predictions = []
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                predictions.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{file}:{number}: not JSON ({error}); delete that line") from error
    return predictions


def _line(prediction: dict) -> str:
    return json.dumps(prediction, ensure_ascii=False) + "\n"


def _short(value: object) -> str:
    return str(value)[:12]
