"""The run folders that `compare` is given: whether they can stand side by side, and what must be said if they do."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from caad_ds.evaluation.figures.figures import OLDEST, Figures, figures_of
from caad_ds.evaluation.predictions import REMEDY, RunFolder
from caad_ds.evaluation.scoring.matching import VERSION
from caad_ds.evaluation.scoring.scores import RULES
from caad_ds.utils.errors import UserError
from caad_ds.utils.wording import counted

BENCHMARK = {
    "benchmark": "benchmarks",
    "prompt": "prompts (--prompt)",
    "rule": "rules of matching (the description's `matching`)",
    "figures": "figures (the description's `score`)",
    "benchmark_sha256": "contents of the benchmark",
}  # setups of MCR-BENCH and Dynamic-SUPERB have neither rule nor figures
PER_MODEL = ("model_sha256", "seed")  # what runs of one name may differ in
NOTED = {"max_new_tokens": "--max-new-tokens", "dtype": "--dtype"}


@dataclass
class Runs:
    """Predictions of each run by its system's name, in order of appearance, and what a reader must know of them.

    `figures` are what their answers come to, `benchmark` is what their setups call it. `confusions` has those of each
    run beside; an earlier version's scores have none.
    """

    figures: Figures
    benchmark: str
    systems: dict[str, list[list[dict]]] = field(default_factory=dict)
    rejected: dict[Path, int] = field(default_factory=dict)  # rows that a run could not use
    notes: list[str] = field(default_factory=list)
    complete: bool = True  # on every row of the benchmark
    confusions: dict[str, list[dict]] = field(default_factory=dict)


def read_runs(folders: list[Path]) -> Runs:
    """The runs in these folders.

    UserError if a run is unfinished or cut, was scored by other rules of matching or into other figures, is given
    twice, was made on another benchmark or other items than the first, or decodes otherwise than its namesakes.
    """
    of_all = RunFolder(folders[0]).read_scores()["setup"]
    runs = Runs(figures_of(of_all), of_all.get("benchmark", OLDEST))
    setups: dict[Path, dict] = {}
    items: set[tuple[str, str]] = set()
    for path in folders:
        scores = RunFolder(path).read_scores()
        setups[path] = _checked(path, scores["setup"], setups)
        predictions = _whole(path, scores)
        ours = {(p["id"], p["gt"]) for p in predictions}
        items = items or ours
        if ours != items:
            raise UserError(
                f"{path}: evaluated on {len(ours)} items, {len(ours & items)} of them among the {len(items)} of "
                f"{folders[0]}; compare runs on one benchmark with one --limit"
            )
        runs.systems.setdefault(scores["name"], []).append(predictions)
        runs.complete &= not (scores.get("limited") or scores["rejected"])
        runs.confusions.setdefault(scores["name"], []).append(scores.get("confusions", {}))
        if scores["rejected"]:
            runs.rejected[path] = len(scores["rejected"])
    prompted = [f"Prompts: {of_all['prompt']} (--prompt)."] if "prompt" in of_all else []
    left_out = [f"{counted(count, 'row')} left out in {path}." for path, count in runs.rejected.items()]
    runs.notes = [
        f"Over {counted(len({name for name, _ in items}), 'item')}.",
        *prompted,
        *left_out,
        *_differing(setups),
    ]
    return runs


def read_speeds(folders: list[Path]) -> dict[str, dict]:
    """What the first run of each name measured of its speed, of those that measured any."""
    found: dict[str, dict] = {}
    for path in folders:
        scores = RunFolder(path).read_scores()
        if scores.get("speed"):
            found.setdefault(scores["name"], scores["speed"])
    return found


def _checked(path: Path, setup: dict, others: dict[Path, dict]) -> dict:
    """The setup of a run that may stand beside the others."""
    for other, its in others.items():
        for key, what in BENCHMARK.items():
            if setup.get(key) != its.get(key):
                raise UserError(
                    f"{path} and {other}: evaluated on different {what}; compare runs on one, with one --limit"
                )
        if path.resolve() == other.resolve():
            raise UserError(f"{path}: given twice; a run counts once")
        if _without(setup, ("name",)) == _without(its, ("name",)):
            raise UserError(f"{path} and {other}: one model, decoding and seed; a run counts once, leave one out")
        if setup["name"] == its["name"] and _without(setup, PER_MODEL) != _without(its, PER_MODEL):
            raise UserError(
                f"{path}: named {setup['name']!r} like a run that decodes otherwise; evaluate it with a --name of its "
                "own"
            )
    return setup


def _without(setup: dict, keys: Iterable[str]) -> dict:
    return {key: value for key, value in setup.items() if key not in keys}


def _whole(path: Path, scores: dict) -> list[dict]:
    """All predictions of a finished run; UserError if they are not those that were scored."""
    figures = figures_of(scores["setup"])
    try:
        scored = figures.items(scores)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / 'scores.json'}: not the scores of an evaluation; {REMEDY}") from error
    if scores.get("matching") != VERSION:
        raise UserError(
            f"{path}: scored by another version's rules of matching; run its `caad-ds evaluate` again with the same "
            "options, which scores it again and asks nothing again"
        )
    predictions = RunFolder(path).complete(figures.conditions)
    judged = all(isinstance(p.get(rule), bool) for p in predictions for rule in RULES)
    if not judged or not all(key in p for p in predictions for key in figures.reads):
        raise UserError(f"{path}: predictions.jsonl has answers without a verdict; run its `caad-ds evaluate` again")
    have = len({p["id"] for p in predictions})
    if have != scored:
        raise UserError(
            f"{path}: scores.json is of {scored} items, predictions.jsonl has {have}; run its `caad-ds evaluate` again"
        )
    return predictions


def _differing(setups: dict[Path, dict]) -> list[str]:
    notes = []
    for key, flag in NOTED.items():
        values = {path: setup.get(key) for path, setup in setups.items()}
        if len(set(values.values())) > 1:
            notes.append(f"{flag} differs: " + ", ".join(f"{value} in {path}" for path, value in values.items()) + ".")
    return notes
