"""Dynamic-SUPERB phase 1 (arXiv 2309.09510) in its two forms on disk.

JSONL: `*.jsonl` in a folder, or one such file, with a row per line:
    {"audios": [{"path", "text"}], "messages": [{"role", "content"}], "label", "category": "DS@<instance>"}
Hugging Face: a folder per instance, `<instance>/**/*.parquet` or what `save_to_disk` wrote, with the columns
    audio, audio2, ... ({bytes, path}) or audios (a list of them), instruction, label
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

from caad_ds.data.markers import AUDIO, END_AUDIO, START_AUDIO, user_content
from caad_ds.errors import UserError
from caad_ds.evaluation.data_sets import FAULTS, Cell, lengths, rows, schema, table_files
from caad_ds.evaluation.items import Clip, Item, is_text
from caad_ds.evaluation.matching import words
from caad_ds.text import TextError, decode_line, numbered, read_lines

CATEGORY = "DS@"
AUDIO_COLUMN = re.compile(r"audio\d*")
PATHS = ("path", "audio", "audio_filepath")
TEXTS = ("text", "transcription")


class Fault(Exception):
    """Why a row cannot be asked."""


@dataclass(frozen=True)
class DynamicSuperb:
    """The usable rows as items, `<instance>/<row>`, the labels of each instance, and why rows cannot be used."""

    items: list[Item] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    rejected: list[dict] = field(default_factory=list)

    kind: ClassVar[str] = "dynamic-superb"
    conditions: ClassVar[tuple[None]] = (None,)

    @staticmethod
    def load(path: Path, limit: int | None = None) -> "DynamicSuperb":
        """Reads a folder, or a JSONL file; `limit` keeps the first usable rows of each instance.

        `options` holds the distinct labels of an instance, before the limit. UserError when no row can be used.
        """
        if _jsonl_files(path) and _instances(path):
            raise UserError(f"{path}: has *.jsonl and instances with tables; give the JSONL file, or move one of them")
        kept: dict[str, list[Item]] = {}
        labels: dict[str, set[str]] = {}
        rejected = []
        for item in _from_jsonl(path) if _jsonl_files(path) else _from_tables(path):
            if isinstance(item, dict):
                rejected.append(item)
                continue
            labels.setdefault(item.subset, set()).add(item.gt)
            items = kept.setdefault(item.subset, [])
            if limit is None or len(items) < limit:
                items.append(item)
        if not kept:
            reason = f"{rejected[0]['id']}: {rejected[0]['reason']}" if rejected else "there is none"
            raise UserError(f"{path}: no row of Dynamic-SUPERB in it can be used ({reason}); mend the files")
        items = [item for _, ours in sorted(kept.items()) for item in ours]
        return DynamicSuperb(items, {name: sorted(found) for name, found in labels.items()}, rejected)

    @staticmethod
    def is_in(path: Path) -> bool:
        """Whether a path looks like this benchmark."""
        return bool(_jsonl_files(path) or _instances(path))


@cache
def dimensions() -> dict[str, str]:
    """The dimension of each of the 58 instances."""
    lines = read_lines(Path(__file__).with_suffix(".tsv"))
    dimension_and_instance = [line.split("\t") for _, line in lines if not line.startswith("#")][1:]
    return {instance: dimension for dimension, instance in dimension_and_instance}


def _jsonl_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".jsonl" else []
    return sorted(path.glob("*.jsonl"))


def _instances(path: Path) -> list[Path]:
    """The folders with tables in them; `path` alone where it is called like an instance."""
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []
    folders = [path] if path.name in dimensions() else folders
    return [folder for folder in folders if any(folder.rglob("*.parquet")) or any(folder.rglob("*.arrow"))]


def _from_jsonl(path: Path) -> Iterator[Item | dict]:
    """An item per row, or `{id, reason}`; rows of an instance are counted over all files."""
    number: Counter[str] = Counter()
    first: dict[str, str] = {}
    for file in _jsonl_files(path):
        for place, line in numbered(file):
            if not line.strip():
                continue
            where = f"{file.name}:{place}"
            try:
                row = _object(line)
                instance = _instance(row)
                where = f"{instance}/{number[instance]}"
                number[instance] += 1
                _note_id(row, f"{file.name}:{place}", first)
                item = _asked(where, instance, _clips(row, file.parent), _messages(row), row.get("label"))
            except Fault as fault:
                yield {"id": where, "reason": f"{file.name}:{place}: {fault}"}
            else:
                yield item


def _note_id(row: dict, where: str, first: dict[str, str]) -> None:
    if row.get("id") is not None and first.setdefault(str(row["id"]), where) != where:
        raise Fault(f"id {row['id']!r} is that of {first[str(row['id'])]}")


def _object(line: bytes) -> dict:
    try:
        row = json.loads(decode_line(line))
    except TextError as error:
        raise Fault(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise Fault(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise Fault(f"is a {type(row).__name__}, not an object")
    if not is_text(row):
        raise Fault("holds half of a surrogate pair, which is no character")
    return row


def _instance(row: dict) -> str:
    category = row.get("category")
    if not isinstance(category, str) or not category.startswith(CATEGORY) or category == CATEGORY:
        raise Fault(f"category {category!r} is not {CATEGORY}<instance>")
    return category.removeprefix(CATEGORY)


def _clips(row: dict, folder: Path) -> tuple[Clip, ...]:
    audios = row.get("audios")
    if not isinstance(audios, list) or not audios:
        raise Fault("audios is missing or empty")
    return tuple(_clip(audio, folder) for audio in audios)


def _clip(audio: object, folder: Path) -> Clip:
    held = {"path": audio} if isinstance(audio, str) else audio if isinstance(audio, dict) else {}
    path, text = (next((held[name] for name in names if held.get(name)), "") for names in (PATHS, TEXTS))
    if not isinstance(path, str) or not path or not isinstance(text, str):
        raise Fault(f"an audio is {audio!r:.60}, not a path or {{path, text}}")
    if not os.path.isfile(folder / path):  # of a name that is too long, Path.is_file raises
        raise Fault(f"audio {path} is not in {folder}")
    return Clip(folder / path, text)


def _messages(row: dict) -> list[dict]:
    """The turns up to the last of the user; without marks of audio in them, each clip is put before that turn."""
    turns = row.get("messages")
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
        raise Fault("messages is not a list of {role, content}")
    last = max((k for k, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if last is None:
        raise Fault("messages holds no turn of the user")
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in turns[: last + 1]]
    marks = sum(turn["content"].count(AUDIO) for turn in turns)
    if marks not in (0, len(row["audios"])):
        raise Fault(f"{marks} {AUDIO} in its messages but {len(row['audios'])} audios")
    if not marks:
        turns[last]["content"] = user_content(turns[last]["content"], audios=len(row["audios"]))
    return turns


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)


def _from_tables(path: Path) -> Iterator[Item | dict]:
    """An item per row, or `{id, reason}`; a file that cannot be read ends its instance."""
    for folder in _instances(path):
        number = 0
        try:
            for file in table_files(folder):
                for row, cells in _rows_with_cells(file):
                    name = f"{folder.name}/{number}"
                    number += 1
                    try:
                        item = _of_table(name, folder.name, file, row, cells)
                    except Fault as fault:
                        yield {"id": name, "reason": f"{file}: {fault}"}
                    else:
                        yield item
        except (Fault, *FAULTS) as error:
            yield {"id": folder.name, "reason": f"{folder} after row {number}: cannot be read ({error})"}


def _rows_with_cells(file: Path) -> Iterator[tuple[dict, list[Cell]]]:
    """Instruction and label of each row, and where its audios stand."""
    names = schema(file).names
    if missing := [name for name in ("instruction", "label") if name not in names]:
        raise Fault(f"{file} has no column {', '.join(missing)}, it has {', '.join(names)}")
    columns = sorted((name for name in names if AUDIO_COLUMN.fullmatch(name)), key=lambda name: int(name[5:] or 1))
    lists = lengths(file, "audios") if "audios" in names else ()
    for number, (row, length) in enumerate(zip_longest(rows(file, ["instruction", "label"]), lists, fillvalue=0)):
        cells = [Cell(column, number) for column in columns]
        yield row, cells + [Cell("audios", number, place) for place in range(length)]


def _of_table(name: str, instance: str, file: Path, row: dict, cells: list[Cell]) -> Item:
    instruction = row["instruction"]
    if not isinstance(instruction, str) or not instruction.strip():
        raise Fault("instruction is missing, empty or not a string")
    if not cells:
        raise Fault("no column audio, audio2, ... and no audios")
    turn = {"role": "user", "content": user_content(instruction.strip(), audios=len(cells))}
    return _asked(name, instance, tuple(Clip(file, cell=cell) for cell in cells), [turn], row["label"])


def _asked(name: str, instance: str, clips: tuple[Clip, ...], messages: list[dict], label: object) -> Item:
    if not isinstance(label, str) or not words(label):
        raise Fault(f"label {label!r:.60} is missing, no string, or has no word left after normalisation")
    question = messages[-1]["content"]
    for mark in (START_AUDIO, AUDIO, END_AUDIO):
        question = question.replace(mark, "")
    return Item(name, instance, None, clips, messages, question.strip(), label.strip())
