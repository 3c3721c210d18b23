"""What `caad-ds explain` has written about items: its files, as far as a page shows them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.explain.token_picture import visible_tokens
from caad_ds.evaluation.report.mlflow_log import NOTE
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from caad_ds.utils.paths import run_name

FOLDER = "tokens"  # of a run folder, where they are found without being named
ASKED = ("question", "hint", "gt")
DIGITS = 4
REMEDY = "name a folder of `caad-ds explain`"


def read_tokens(given: Sequence[Path], runs: Sequence[Path], items: Iterable[Item]) -> tuple[list[dict], list[str]]:
    """The explanations in the folders that are `given`, and in `tokens` of the runs, in the items' order; and of what
    nobody named why it is left out.

    UserError for a folder that is given and has none, a file in it that is none, or one about an item that these runs
    were not asked.
    """
    by_key = {item.key: item for item in items}
    place = {key: number for number, key in enumerate(by_key)}
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
    return sorted(found, key=lambda told: place[f"{told['id']}:{told['condition']}"]), unshown


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.json") if file.name != NOTE)


def _read(file: Path, items: dict[str, Item]) -> dict:
    told = read_json(file, REMEDY)
    try:
        item = items.get(f"{told['id']}:{told['condition']}")
        asked = {key: told[key] for key in ASKED}
        shown = {
            "id": told["id"],
            "condition": told["condition"],
            "model": run_name(Path(told["model"])),
            "teacher": told["teacher"] and run_name(Path(told["teacher"])),
            "setting": told["setting"],
            "answer": told["answer"],
            "signals": told["signals"],
            "positions": [_position(each, told["signals"]) for each in told["positions"]],
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: no explanation of an answer ({error!r}); {REMEDY}") from error
    if item is None or asked != {"question": item.question, "hint": item.hint, "gt": item.gt}:
        raise UserError(
            f"{file}: about {told['id']}, {told['condition']}, which these runs were not asked, or not so; explain an "
            "item of their benchmark"
        )
    return shown


def _position(position: dict, signals: Sequence[str]) -> dict:
    """The answer's token at a position, and the listed ones with their probabilities in the signals' order."""
    tokens = [
        {"text": token["text"], "own": token["id"] == position["id"], "p": [round(token[s], DIGITS) for s in signals]}
        for token in visible_tokens(position, signals)
    ]
    return {"text": position["text"], "tokens": tokens}
