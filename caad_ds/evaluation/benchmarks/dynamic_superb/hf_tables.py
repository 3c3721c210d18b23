"""Dynamic-SUPERB's instances in the Hugging Face format: tables that contain the audio bytes."""

import re
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pyarrow as pa

from caad_ds.data.audio_markers import AUDIO, user_content
from caad_ds.evaluation.benchmarks.dynamic_superb.terms import needs_term, with_term
from caad_ds.evaluation.benchmarks.hf_datasets import FAULTS, TABLES, Cell, lengths, schema, table_files, texts
from caad_ds.evaluation.benchmarks.items import Clip, Fault, Item
from caad_ds.evaluation.benchmarks.prompt_manifest import answer

AUDIO_COLUMN = re.compile(r"audio\d*")


def has_tables(folder: Path) -> bool:
    """Return whether a folder holds tables."""
    return any(any(folder.rglob(f"*{suffix}")) for suffix in TABLES)


def from_tables(folder: Path) -> Iterator[Item | dict]:
    """Yield an item per row, or `{id, reason}`; an unreadable file ends the instance."""
    number = 0
    try:
        for file in table_files(folder):
            for row, cells in _rows_with_cells(folder.name, file):
                name = f"{folder.name}/{number}"
                number += 1
                try:
                    clips = tuple(Clip(file, cell=cell) for cell in cells)
                    item = instructed(name, folder.name, clips, row)
                except Fault as fault:
                    yield {"id": name, "reason": f"{file}: {fault}"}
                else:
                    yield item
    except (Fault, *FAULTS) as error:
        yield {"id": folder.name, "reason": f"{folder} after row {number}: cannot be read ({error})"}


def instructed(name: str, instance: str, clips: tuple[Clip, ...], row: dict) -> Item:
    """Return the item of a row with `instruction`, `label` and, if the instance asks about a term, `text`."""
    instruction = row.get("instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        raise Fault("instruction is missing, empty or not a string")
    question = instruction.strip()
    if needs_term(instance):
        question = with_term(question, row.get("text"))
    if AUDIO in question:
        raise Fault(f"instruction or text holds {AUDIO}, which marks an audio")
    if not clips:
        raise Fault("no column audio, audio2, ... and no audios")
    messages = [{"role": "user", "content": user_content(question, audios=len(clips))}]
    return Item(name, instance, None, clips, messages, question, answer(row.get("label")))


def _rows_with_cells(instance: str, file: Path) -> Iterator[tuple[dict, list[Cell]]]:
    """Yield each row's text columns and the cells of its audios."""
    table = schema(file)
    names = [name for name, kind in zip(table.names, table.types, strict=True) if not pa.types.is_null(kind)]
    read = ["instruction", "label", *(["text"] if needs_term(instance) else [])]
    if missing := [name for name in read if name not in names]:
        raise Fault(f"{file} has no column {', '.join(missing)}, it has {', '.join(names)}")
    columns = sorted((name for name in names if AUDIO_COLUMN.fullmatch(name)), key=lambda name: int(name[5:] or 1))
    lists = lengths(file, "audios") if "audios" in names else repeat(0)
    for number, (row, length) in enumerate(zip(texts(file, read), lists, strict=False)):
        cells = [Cell(column, number) for column in columns]
        yield row, cells + [Cell("audios", number, place) for place in range(length)]
