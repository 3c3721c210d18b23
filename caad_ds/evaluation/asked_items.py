"""`items.jsonl` of a run folder: what the run asked, and where its audio is, so that its answers can be looked at."""

import json
from collections.abc import Iterable
from pathlib import Path

from caad_ds.evaluation.benchmarks.hf_datasets import Cell
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_jsonl
from caad_ds.utils.text import read_lines

FILE = "items.jsonl"
REMEDY = "run its `caad-ds evaluate` again with the same options, which asks nothing again"
TEXTS = ("id", "subset", "question", "gt")


def write_items(folder: Path, items: Iterable[Item]) -> None:
    """Write a line per item, the paths of its audio in full: the folder may be read from elsewhere."""
    write_jsonl(folder / FILE, map(_line, items))


def read_items(folder: Path) -> list[Item]:
    """The items of a finished run, without their messages; UserError if the folder does not hold them."""
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"{file}: missing, as an earlier version left it; {REMEDY}")
    return [_item(line, f"{file}:{number}") for number, line in read_lines(file)]


def _line(item: Item) -> dict:
    audio = [
        {"path": str(clip.path.absolute()), **({} if clip.cell is None else {"cell": list(clip.cell)})}
        for clip in item.clips
    ]
    asked = {"id": item.id, "condition": item.condition, "subset": item.subset, "question": item.question}
    return {**asked, "hint": item.hint, "gt": item.gt, "audio": audio}


def _item(line: str, where: str) -> Item:
    try:
        row = json.loads(line)
        clips = tuple(
            Clip(Path(clip["path"]), cell=Cell(*clip["cell"]) if "cell" in clip else None) for clip in row["audio"]
        )
        if not all(isinstance(row[key], str) for key in TEXTS):
            raise ValueError("a text is none")
        name, subset, question, gt = (row[key] for key in TEXTS)
        return Item(name, subset, row["condition"], clips, (), question, gt, row["hint"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: no item of a benchmark ({error}); {REMEDY}") from error
