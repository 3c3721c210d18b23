"""A run folder: `setup.json`, `predictions.jsonl` (append-only, one line per item and condition), `scores.json`."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, drop_cut_line, read_json, to_line, write_json, write_jsonl
from caad_ds.utils.text import read_lines

REMEDY = "delete its folder and run again"
SHOWN = 5  # evaluations named in a message
SHORT = 40  # characters of a value in messages
SCORES = {"name": str, "setup": dict, "rejected": list}
Key = tuple[str, str | None]  # id and condition


@dataclass(frozen=True)
class RunFolder:
    """The files of one evaluation; with several ranks, each writes `predictions.<rank>.jsonl` until all are done."""

    path: Path

    def open(self, setup: dict, wanted: Mapping[Key, str]) -> set[Key]:
        """Return which of the `wanted`, each with its subset, are already predicted under this setup; raises UserError
        if the folder holds another evaluation, one with other subsets, or an unknown one.

        Ranks' files are first merged into `predictions.jsonl`, so any number of ranks can resume. If something is left
        to predict, existing scores are deleted.
        """
        file = self.path / "setup.json"
        if not file.is_file():
            self._refuse_unknown()
            write_json(file, setup)
            return set()
        before = read_json(file, REMEDY)
        # Keys of both: some are present only if not at their default.
        changed = [key for key in {**setup, **before} if before.get(key) != setup.get(key)]
        if changed:
            raise self._another(f"{key} was {_short(before.get(key))}, is {_short(setup.get(key))}" for key in changed)
        for part in self._files():
            drop_cut_line(part)
        self.merge()
        found = {_key(p): p["subset"] for p in self._read_if_any()}
        for key, subset in found.items():
            # The hash of a benchmark does not contain the subsets of questions with their own choices.
            if wanted.get(key, subset) != subset:
                raise self._another([f"the group of {key[0]} was {subset!r}, is {wanted[key]!r}"])
        done = found.keys() & wanted.keys()
        if len(done) < len(wanted):
            self._drop_scores()
        return done

    def append(self, predictions: list[dict], rank: int | None = None) -> None:
        """Append predictions, to the rank's own file if there are several ranks.

        A kill truncates at most the last line, which `open` drops.
        """
        file = self._predictions if rank is None else self.path / f"predictions.{rank}.jsonl"
        with disk_errors(self.path), open(file, "ab") as lines:
            lines.writelines(map(to_line, predictions))

    def merge(self, order: Iterable[Key] = ()) -> None:
        """Merge the ranks' predictions into `predictions.jsonl`, sorted by `order` (id, condition).

        A kill meanwhile neither loses nor duplicates predictions.
        """
        parts = [file for file in self._files() if file != self._predictions]
        if not parts:
            return
        found = {_key(p): p for file in self._files() for p in _read(file)}
        position = {key: k for k, key in enumerate(order)}
        ordered = sorted(found, key=lambda key: position.get(key, len(position)))
        write_jsonl(self._predictions, (found[key] for key in ordered))
        for part in parts:
            part.unlink()

    def complete(self, conditions: Iterable[str | None]) -> list[dict]:
        """Return the predictions, each once, of the items that were answered under all `conditions` of the benchmark.

        Raises UserError with the line number if a line is broken.
        """
        predictions = {_key(p): p for p in self._read_if_any()}
        answered = defaultdict(set)
        for name, condition in predictions:
            answered[name].add(condition)
        return [p for p in predictions.values() if answered[p["id"]].issuperset(conditions)]

    def revise(self, revised: Callable[[dict], dict]) -> None:
        """Replace each prediction by `revised` of it; the file is written only if something changes."""
        before = self._read_if_any()
        after = [revised(p) for p in before]
        if after != before:
            write_jsonl(self._predictions, after)

    def write_scores(self, scores: dict) -> None:
        """Write `scores.json` atomically."""
        write_json(self._scores, scores)

    def write_disagreements(self, predictions: list[dict]) -> None:
        """Write `disagreements.jsonl` atomically: predictions on which the matching rules disagree."""
        write_jsonl(self.path / "disagreements.jsonl", predictions)

    def disagreements(self) -> int:
        """Return on how many answers of a finished evaluation the matching rules disagree."""
        return sum(1 for _ in read_lines(self.path / "disagreements.jsonl"))

    def add_doubtful(self, rows: list[dict]) -> list[dict]:
        """Add rows to `doubtful.jsonl`; return all of its rows, each id once."""
        path = self.path / "doubtful.jsonl"
        kept = [json.loads(line) for _, line in read_lines(path)] if path.is_file() else []
        known = {row["id"]: row for row in kept + rows}
        if rows:
            write_jsonl(path, known.values())
        return list(known.values())

    def speed(self) -> dict | None:
        """Return the measured speed of a finished evaluation, or None."""
        return self.read_scores().get("speed") if self._scores.is_file() else None

    def read_scores(self) -> dict:
        """Read `scores.json`; raises UserError if the evaluation is unfinished, or the file holds no scores."""
        file = self._scores
        if not file.is_file():
            raise self._unscored()
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
        """Return the prediction files, those of ranks first; copies made by a user are ignored."""
        parts = [f for f in self.path.glob("predictions.*.jsonl") if f.name.split(".")[1].isdecimal()]
        return [*sorted(parts), *([self._predictions] if self._predictions.is_file() else [])]

    def _another(self, changes: Iterable[str]) -> UserError:
        changed = ", ".join(changes)
        return UserError(f"{self.path}: holds another evaluation ({changed}); use another --out, or delete the folder")

    def _unscored(self) -> UserError:
        """Make the error for a folder without scores, which may be a training run's or hold evaluations."""
        unfinished = UserError(f"{self._scores}: missing; finish the run with `caad-ds evaluate --out {self.path} ...`")
        if (self.path / "setup.json").is_file():
            return unfinished
        within = sorted(file.parent for file in self.path.glob("*/scores.json"))
        trained = (self.path / "config.yaml").is_file()
        what = "the folder of a training run" if trained else "no folder of an evaluation"
        if within:
            names = ", ".join(map(str, within[:SHOWN])) + (", ..." if len(within) > SHOWN else "")
            return UserError(f"{self.path}: {what}; give an evaluation in it ({names})")
        if trained:
            return UserError(f"{self.path}: {what}; first run `caad-ds evaluate --model {self.path} ...`")
        return unfinished

    def _refuse_unknown(self) -> None:
        """Raise UserError if there are answers or scores without a setup."""
        found = [file.name for file in (*self._files(), self._scores) if file.is_file()]
        if found:
            raise UserError(f"{self.path}: holds {found[0]} but no setup.json; use another --out, or move it away")

    def _drop_scores(self) -> None:
        for file in (self._scores, self.path / "disagreements.jsonl"):
            file.unlink(missing_ok=True)

    def _read_if_any(self) -> list[dict]:
        return _read(self._predictions) if self._predictions.is_file() else []


def prompt_of(scores: dict) -> str | None:
    """Return the form of a run's prompts; None if its benchmark has only one, or an earlier version scored it."""
    return scores.get("prompt", scores["setup"].get("prompt"))


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
    """Return a value as text, truncated if long."""
    text = str(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."
