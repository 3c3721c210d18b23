"""A run folder: `setup.json`, `predictions.jsonl` (append-only, one line per item and condition), `scores.json`."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from caad_ds.errors import UserError
from caad_ds.evaluation.mcr_bench import CONDITIONS
from caad_ds.files import disk_errors, drop_cut_line, read_json, write_json

REMEDY = "delete its folder and run again"


@dataclass(frozen=True)
class RunFolder:
    """The files of one evaluation."""

    path: Path

    def open(self, setup: dict) -> list[dict]:
        """The predictions made so far under this very setup; UserError if the folder holds another one's."""
        file = self.path / "setup.json"
        if not file.is_file():
            write_json(file, setup)
            self._predictions.unlink(missing_ok=True)
            return []
        before = read_json(file, REMEDY)
        changed = [key for key in setup if before.get(key) != setup[key]]
        if changed:
            was = ", ".join(f"{key} was {_short(before.get(key))}, is {_short(setup[key])}" for key in changed)
            raise UserError(f"{self.path}: holds another evaluation ({was}); use another --out, or delete the folder")
        if self._predictions.is_file():
            drop_cut_line(self._predictions)
        return self.read()

    def append(self, predictions: list[dict]) -> None:
        """Adds predictions; a kill leaves at most the last line cut, which `open` drops."""
        with disk_errors(self.path), open(self._predictions, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(p, ensure_ascii=False) + "\n" for p in predictions)

    def read(self) -> list[dict]:
        """All predictions; UserError with the line number where one is broken."""
        if not self._predictions.is_file():
            return []
        predictions = []
        with open(self._predictions, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    predictions.append(json.loads(line))
                except ValueError as error:
                    raise UserError(f"{self._predictions}:{number}: not JSON ({error}); delete that line") from error
        return predictions

    def complete(self) -> list[dict]:
        """The predictions of the items that were answered under every condition."""
        predictions = self.read()
        answered = Counter(p["id"] for p in predictions)
        return [p for p in predictions if answered[p["id"]] == len(CONDITIONS)]

    def write_scores(self, scores: dict) -> None:
        """Writes `scores.json` whole."""
        write_json(self.path / "scores.json", scores)

    def read_scores(self) -> dict:
        """`scores.json`; UserError if the evaluation has not come to its end."""
        file = self.path / "scores.json"
        if not file.is_file():
            raise UserError(f"{file}: missing; finish the run with `caad-ds evaluate --out {self.path} ...`")
        return read_json(file, REMEDY)

    @property
    def _predictions(self) -> Path:
        return self.path / "predictions.jsonl"


def _short(value: object) -> str:
    return str(value)[:12]
