"""`items.jsonl` of a run folder: the questions of the run and the paths of its audio, for the report page."""

import json
from collections.abc import Iterable
from pathlib import Path

from caad_ds.evaluation.benchmarks.hf_datasets import Cell
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_jsonl
from caad_ds.utils.text import read_lines

FILE = "items.jsonl"
REMEDY = "run its `caad-ds evaluate` again with the same options, which keeps its answers"
TEXTS = ("id", "subset", "question", "gt")


def write_items(folder: Path, items: Iterable[Item]) -> None:
    """Write a line per item, with absolute audio paths: the folder may be read from another directory."""
    write_jsonl(folder / FILE, map(_line, items))


def read_items(folder: Path) -> list[Item]:
    """Read the items of a finished run, without their messages; raises UserError if the folder lacks them."""
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"{file}: missing, because an earlier version wrote this folder; {REMEDY}")
    return [_item(line, f"{file}:{number}") for number, line in read_lines(file)]


def _line(item: Item) -> dict:
    audio = [
        {"path": str(clip.path.absolute()), **({} if clip.cell is None else {"cell": list(clip.cell)})}
        for clip in item.clips
    ]
    fields = {"id": item.id, "condition": item.condition, "subset": item.subset, "question": item.question}
    return {**fields, "hint": item.hint, "gt": item.gt, "audio": audio}


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
