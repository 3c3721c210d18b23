"""Read run folders for `compare`, and check whether they are comparable."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from caad_ds.evaluation.predictions import REMEDY, RunFolder, prompt_of
from caad_ds.evaluation.result_kinds.result_kind import OLDEST, ResultKind, result_kind_of
from caad_ds.evaluation.scoring.bootstrap_scores import RULES
from caad_ds.evaluation.scoring.matching import VERSION
from caad_ds.utils.errors import UserError
from caad_ds.utils.formatting import counted

BENCHMARK = {
    "benchmark": "benchmarks",
    "prompt": "prompts (--prompt)",
    "rule": "rules of matching (the description's `matching`)",
    "figures": "figures (the description's `score`)",
    "benchmark_sha256": "contents of the benchmark",
}  # setups of MCR-BENCH and Dynamic-SUPERB have neither `rule` nor `figures`
PER_MODEL = ("model_sha256", "seed")  # may differ between runs of one name
NOTED = {"max_new_tokens": "--max-new-tokens", "dtype": "--dtype"}


@dataclass
class Runs:
    """Predictions of each run by its system's name, in order of appearance, and notes on them.

    `result_kind` is the kind of their results, `benchmark` the kind of benchmark in their setups. `confusions` are by
    system and run; empty for scores of an earlier version.
    """

    result_kind: ResultKind
    benchmark: str
    systems: dict[str, list[list[dict]]] = field(default_factory=dict)
    rejected: dict[Path, int] = field(default_factory=dict)  # rows that a run could not use
    notes: list[str] = field(default_factory=list)
    complete: bool = True  # the runs cover every row of the benchmark
    confusions: dict[str, list[dict]] = field(default_factory=dict)


def read_runs(folders: list[Path]) -> Runs:
    """Read the runs in these folders.

    Raises UserError if a run is unfinished or truncated, is scored by other matching rules or as other figures, is
    given twice, is on another benchmark or other items than the first, has them in other groups, or differs in decoding
    from runs of its name.
    """
    first_setup = RunFolder(folders[0]).read_scores()["setup"]
    runs = Runs(result_kind_of(first_setup), first_setup.get("benchmark", OLDEST))
    setups: dict[Path, dict] = {}
    items: set[tuple[str, str]] = set()
    groups: dict[str, str] = {}  # by item
    prompts: list[str] = []
    for path in folders:
        scores = RunFolder(path).read_scores()
        setups[path] = _checked(path, scores["setup"], setups)
        predictions = _scored_predictions(path, scores)
        own_items = {(p["id"], p["gt"]) for p in predictions}
        items = items or own_items
        if own_items != items:
            raise UserError(
                f"{path}: evaluated on {len(own_items)} items, {len(own_items & items)} of them among the {len(items)} "
                f"of {folders[0]}; compare runs on one benchmark with one --limit"
            )
        own_groups = {p["id"]: p["subset"] for p in predictions}
        groups = groups or own_groups
        _check_groups(path, own_groups, folders[0], groups)
        runs.systems.setdefault(scores["name"], []).append(predictions)
        runs.complete &= not (scores.get("limited") or scores["rejected"])
        runs.confusions.setdefault(scores["name"], []).append(scores.get("confusions", {}))
        prompts += [prompt] if (prompt := prompt_of(scores)) else []  # earlier versions name the plain one nowhere
        if scores["rejected"]:
            runs.rejected[path] = len(scores["rejected"])
    prompted = [f"Prompts: {prompt} (--prompt)." for prompt in dict.fromkeys(prompts)]
    left_out = [f"{counted(count, 'row')} left out in {path}." for path, count in runs.rejected.items()]
    runs.notes = [
        f"Over {counted(len({name for name, _ in items}), 'item')}.",
        *prompted,
        *left_out,
        *_differing(setups),
    ]
    return runs


def read_speeds(folders: list[Path]) -> dict[str, dict]:
    """Return the speed of the first run of each name that measured it."""
    found: dict[str, dict] = {}
    for path in folders:
        scores = RunFolder(path).read_scores()
        if scores.get("speed"):
            found.setdefault(scores["name"], scores["speed"])
    return found


def _checked(path: Path, setup: dict, others: dict[Path, dict]) -> dict:
    """Return the setup of a run; raises UserError if it is not comparable with the others."""
    for other, other_setup in others.items():
        for key, label in BENCHMARK.items():
            if setup.get(key) != other_setup.get(key):
                raise UserError(
                    f"{path} and {other}: evaluated on different {label}; compare runs on one, with one --limit"
                )
        if path.resolve() == other.resolve():
            raise UserError(f"{path}: given twice; a run counts once")
        if _without(setup, ("name",)) == _without(other_setup, ("name",)):
            raise UserError(f"{path} and {other}: one model, decoding and seed; a run counts once, leave one out")
        if setup["name"] == other_setup["name"] and _without(setup, PER_MODEL) != _without(other_setup, PER_MODEL):
            raise UserError(
                f"{path}: named {setup['name']!r} like a run that decodes otherwise; evaluate it with a --name of its "
                "own"
            )
    return setup


def _check_groups(path: Path, groups: dict[str, str], first: Path, expected: dict[str, str]) -> None:
    """Raise UserError if an item is in another group than in the first run, whose groups are those of the tables."""
    for name, group in groups.items():
        if group != expected[name]:
            raise UserError(
                f"{path}: has {name} in the group {group!r}, and {first} in {expected[name]!r}; compare runs with one "
                "grouping (the description's `columns.group`)"
            )


def _without(setup: dict, keys: Iterable[str]) -> dict:
    return {key: value for key, value in setup.items() if key not in keys}


def _scored_predictions(path: Path, scores: dict) -> list[dict]:
    """Return all predictions of a finished run; raises UserError if they are not those that were scored."""
    kind = result_kind_of(scores["setup"])
    try:
        scored = kind.items(scores)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / 'scores.json'}: not the scores of an evaluation; {REMEDY}") from error
    if scores.get("matching") != VERSION:
        raise UserError(
            f"{path}: scored by another version's rules of matching; run its `caad-ds evaluate` again with the same "
            "options, which keeps its answers and scores them again"
        )
    predictions = RunFolder(path).complete(kind.conditions)
    judged = all(isinstance(p.get(rule), bool) for p in predictions for rule in RULES)
    if not judged or not all(key in p for p in predictions for key in kind.reads):
        raise UserError(f"{path}: predictions.jsonl has answers without a verdict; run its `caad-ds evaluate` again")
    present = len({p["id"] for p in predictions})
    if present != scored:
        raise UserError(
            f"{path}: scores.json is of {scored} items, predictions.jsonl has {present}; "
            "run its `caad-ds evaluate` again"
        )
    return predictions


def _differing(setups: dict[Path, dict]) -> list[str]:
    notes = []
    for key, flag in NOTED.items():
        values = {path: setup.get(key) for path, setup in setups.items()}
        if len(set(values.values())) > 1:
            notes.append(f"{flag} differs: " + ", ".join(f"{value} in {path}" for path, value in values.items()) + ".")
    return notes
