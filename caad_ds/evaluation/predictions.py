"""A run folder: `setup.json`, `predictions.jsonl` (append-only, one line per item and condition), `scores.json`."""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, drop_cut_line, read_json, to_line, write_json, write_jsonl
from caad_ds.utils.text import read_lines

REMEDY = "delete its folder and run again"
SHORT = 40  # characters of a value that are told
SCORES = {"name": str, "setup": dict, "rejected": list}
Key = tuple[str, str | None]  # id and condition


@dataclass(frozen=True)
class RunFolder:
    """The files of one evaluation; several ranks have a `predictions.<rank>.jsonl` each until all are done."""

    path: Path

    def open(self, setup: dict, wanted: Collection[Key]) -> set[Key]:
        """Which of the `wanted` were predicted under this very setup; UserError if the folder holds another's, or whose
        it holds cannot be told.

        What ranks left is put into `predictions.jsonl` first, so any number of ranks continues with it. Where something
        is left to predict, scores of an earlier state go.
        """
        file = self.path / "setup.json"
        if not file.is_file():
            self._refuse_strangers()
            write_json(file, setup)
            return set()
        before = read_json(file, REMEDY)
        # Of both: a setup holds some keys only where they are not at their default.
        changed = [key for key in {**setup, **before} if before.get(key) != setup.get(key)]
        if changed:
            was = ", ".join(f"{key} was {_short(before.get(key))}, is {_short(setup.get(key))}" for key in changed)
            raise UserError(f"{self.path}: holds another evaluation ({was}); use another --out, or delete the folder")
        for part in self._files():
            drop_cut_line(part)
        self.merge()
        done = {_key(p) for p in self._read_if_any()}.intersection(wanted)
        if len(done) < len(set(wanted)):
            self._drop_scores()
        return done

    def append(self, predictions: list[dict], rank: int | None = None) -> None:
        """Adds predictions, to a rank's own file where there are several.

        A kill leaves at most the last line cut, which `open` drops.
        """
        file = self._predictions if rank is None else self.path / f"predictions.{rank}.jsonl"
        with disk_errors(self.path), open(file, "ab") as lines:
            lines.writelines(map(to_line, predictions))

    def merge(self, order: Iterable[Key] = ()) -> None:
        """Puts the ranks' predictions into `predictions.jsonl`, those of `order` (id, condition) in that order.

        Nothing is lost, and nothing doubled, by a kill on the way.
        """
        parts = [file for file in self._files() if file != self._predictions]
        if not parts:
            return
        found = {_key(p): p for file in self._files() for p in _read(file)}
        place = {key: k for k, key in enumerate(order)}
        ordered = sorted(found, key=lambda key: place.get(key, len(place)))
        write_jsonl(self._predictions, (found[key] for key in ordered))
        for part in parts:
            part.unlink()

    def complete(self, conditions: Iterable[str | None]) -> list[dict]:
        """The predictions of the items that were answered under every one of the benchmark's `conditions`, each once.

        UserError with the line number where one is broken.
        """
        predictions = {_key(p): p for p in self._read_if_any()}
        answered = defaultdict(set)
        for name, condition in predictions:
            answered[name].add(condition)
        return [p for p in predictions.values() if answered[p["id"]].issuperset(conditions)]

    def revise(self, revised: Callable[[dict], dict]) -> None:
        """Replaces each prediction by what `revised` makes of it; nothing is written where nothing changes."""
        before = self._read_if_any()
        after = [revised(p) for p in before]
        if after != before:
            write_jsonl(self._predictions, after)

    def write_scores(self, scores: dict) -> None:
        """Writes `scores.json` whole."""
        write_json(self._scores, scores)

    def write_disagreements(self, predictions: list[dict]) -> None:
        """Writes `disagreements.jsonl` whole: what the rules of matching judge differently."""
        write_jsonl(self.path / "disagreements.jsonl", predictions)

    def disagreements(self) -> int:
        """On how many answers the rules of matching differ, of a finished evaluation."""
        return sum(1 for _ in read_lines(self.path / "disagreements.jsonl"))

    def add_doubtful(self, rows: list[dict]) -> list[dict]:
        """The rows of `doubtful.jsonl` and these, each id once; the file is replaced where there are new ones."""
        path = self.path / "doubtful.jsonl"
        kept = [json.loads(line) for _, line in read_lines(path)] if path.is_file() else []
        known = {row["id"]: row for row in kept + rows}
        if rows:
            write_jsonl(path, known.values())
        return list(known.values())

    def speed(self) -> dict | None:
        """What a finished evaluation measured of its speed, if there is one and it did."""
        return self.read_scores().get("speed") if self._scores.is_file() else None

    def read_scores(self) -> dict:
        """`scores.json`; UserError if the evaluation has not come to its end, or it holds no scores."""
        file = self._scores
        if not file.is_file():
            raise UserError(f"{file}: missing; finish the run with `caad-ds evaluate --out {self.path} ...`")
        scores = read_json(file, REMEDY)
        if not all(isinstance(scores.get(key), kind) for key, kind in SCORES.items()):
            raise UserError(f"{file}: not the scores of an evaluation; {REMEDY}")
        return scores

    @property
    def _scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def _predictions(self) -> Path:
        return self.path / "predictions.jsonl"

    def _files(self) -> list[Path]:
        """What holds predictions, those of ranks first; a copy that a user made is none of ours."""
        parts = [f for f in self.path.glob("predictions.*.jsonl") if f.name.split(".")[1].isdecimal()]
        return [*sorted(parts), *([self._predictions] if self._predictions.is_file() else [])]

    def _refuse_strangers(self) -> None:
        """UserError where there are answers or scores, and nothing says of which evaluation."""
        found = [file.name for file in (*self._files(), self._scores) if file.is_file()]
        if found:
            raise UserError(f"{self.path}: holds {found[0]} but no setup.json; use another --out, or move it away")

    def _drop_scores(self) -> None:
        for file in (self._scores, self.path / "disagreements.jsonl"):
            file.unlink(missing_ok=True)

    def _read_if_any(self) -> list[dict]:
        return _read(self._predictions) if self._predictions.is_file() else []


def _read(file: Path) -> list[dict]:
    predictions = []
    for number, line in read_lines(file):
        try:
            prediction = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}:{number}: not JSON ({error}); delete that line") from error
        if not _is_prediction(prediction):
            raise UserError(f"{file}:{number}: no prediction; delete that line")
        predictions.append(prediction)
    return predictions


def _is_prediction(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("condition", 0), str | None):
        return False
    return all(isinstance(value.get(key), str) for key in ("id", "subset", "gt", "prediction"))


def _key(prediction: dict) -> Key:
    return prediction["id"], prediction["condition"]


def _short(value: object) -> str:
    """A value as text, of a hash or another long one the beginning."""
    text = str(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."
