"""Read the files of `caad-ds explain` for the report page."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.explain.token_picture import WHOSE, signal_names, visible_tokens
from caad_ds.evaluation.tables_and_plots.mlflow_log import NOTE
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from caad_ds.utils.model_names import run_name

FOLDER = "tokens"  # in a run folder, read automatically
QUESTION_KEYS = ("question", "hint", "gt")
DIGITS = 4
REMEDY = "name a folder of `caad-ds explain`"


def read_tokens(given: Sequence[Path], runs: Sequence[Path], items: Iterable[Item]) -> tuple[list[dict], list[str]]:
    """Return the explanations in the folders `given` and in `tokens` of the runs, in the items' order, and messages
    about files in `tokens` that are left out.

    Raises UserError if a given folder has no explanation, a file without one, or one about an item that is not in these
    runs.
    """
    by_key = {item.key: item for item in items}
    position = {key: number for number, key in enumerate(by_key)}
    found: list[dict] = []
    unshown: list[str] = []
    for folder in given:
        files = _files(folder)
        if not files:
            raise UserError(f"{folder}: no *.json of token pictures in it; {REMEDY}")
        found += [_read(file, by_key) for file in files]
    for file in (file for run in runs for file in _files(run / FOLDER)):
        try:
            found.append(_read(file, by_key))
        except UserError as error:
            unshown.append(str(error))
    return sorted(found, key=lambda shown: position[f"{shown['id']}:{shown['condition']}"]), unshown


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json") if file.name != NOTE)


def _read(file: Path, items: dict[str, Item]) -> dict:
    explanation = read_json(file, REMEDY)
    try:
        item = items.get(f"{explanation['id']}:{explanation['condition']}")
        question = {key: explanation[key] for key in QUESTION_KEYS}
        names = signal_names(explanation["setting"])
        shown = {
            "id": explanation["id"],
            "condition": explanation["condition"],
            "model": run_name(Path(explanation["model"])),
            "teacher": explanation["teacher"] and run_name(Path(explanation["teacher"])),
            "whose": WHOSE[explanation["setting"]["answer"]],
            "names": [names[signal] for signal in explanation["signals"]],
            "answer": explanation["answer"],
            "signals": explanation["signals"],
            "positions": [_position(position, explanation["signals"]) for position in explanation["positions"]],
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: no explanation of an answer ({error!r}); {REMEDY}") from error
    if item is None or question != {"question": item.question, "hint": item.hint, "gt": item.gt}:
        raise UserError(
            f"{file}: about {explanation['id']}, {explanation['condition']}, which is no item of these runs, or "
            "differs there; explain an item of their benchmark"
        )
    return shown


def _position(position: dict, signals: Sequence[str]) -> dict:
    """Return the answer's token at a position, and the visible ones with their probabilities in the signals' order."""
    tokens = [
        {"text": token["text"], "own": token["id"] == position["id"], "p": [round(token[s], DIGITS) for s in signals]}
        for token in visible_tokens(position, signals)
    ]
    return {"text": position["text"], "tokens": tokens}
