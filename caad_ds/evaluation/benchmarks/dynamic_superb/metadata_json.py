"""Dynamic-SUPERB's instances in the format of its own preprocessing: a `metadata.json` beside audio files.

<instance>/metadata.json           or <instance>/<split>/metadata.json
<instance>/<instance>_<name>.wav   the audio of the row under this key: {"<file>": {instruction, label, text, ...}}
<instance>/..._pair.wav            or _pair2.wav, _pair3.wav, ...: further audios of the same row
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from caad_ds.evaluation.benchmarks import audio_files
from caad_ds.evaluation.benchmarks.dynamic_superb.hf_tables import instructed
from caad_ds.evaluation.benchmarks.hf_datasets import of_one_split
from caad_ds.evaluation.benchmarks.items import Clip, Fault, Item
from caad_ds.utils.text import is_text, read_text

NAME = "metadata.json"


def metadata_files(folder: Path) -> list[Path]:
    """Return the metadata files of an instance, one per split."""
    return sorted([*folder.glob(NAME), *folder.glob(f"*/{NAME}")])


def from_metadata(folder: Path) -> Iterator[Item | dict]:
    """Yield an item per row, or `{id, reason}`; an unreadable file ends the instance."""
    number = 0
    try:
        for file in of_one_split(metadata_files(folder), folder):
            seen: set[str] = set()
            for key, row in _rows(file):
                name = f"{folder.name}/{number}"
                number += 1
                try:
                    if key in seen:
                        raise Fault("the file has two rows of this name")
                    seen.add(key)
                    item = _item(name, folder.name, key, row, file.parent)
                except Fault as fault:
                    yield {"id": name, "reason": f"{file}: {key if is_text(key) else ascii(key)}: {fault}"}
                else:
                    yield item
    except (Fault, OSError, ValueError, RecursionError) as error:
        yield {"id": folder.name, "reason": f"{folder} after row {number}: cannot be read ({error})"}


class _Pairs(list):
    """A JSON object whose keys may repeat."""


def _rows(file: Path) -> _Pairs:
    data = json.loads(read_text(file), object_pairs_hook=_Pairs)
    if not isinstance(data, _Pairs):
        raise Fault(f"{file} holds a {type(data).__name__}, not an object of rows by audio file")
    return data


def _item(name: str, instance: str, key: str, pairs: object, folder: Path) -> Item:
    if not isinstance(pairs, _Pairs):
        raise Fault(f"is a {type(pairs).__name__}, not an object")
    row = dict(pairs)
    if not is_text([key, row]):
        raise Fault("holds half of a surrogate pair, which is no character")
    return instructed(name, instance, tuple(map(Clip, _audios(key, row, folder))), row)


def _audios(key: str, row: dict, folder: Path) -> list[Path]:
    """Return the row's audio and its further ones; raises Fault if one that the row names is missing.

    A file ending in `_concat` (the benchmark's ESPnet recipe) holds both audios of a pair and is one audio.
    """
    stem, suffix = os.path.splitext(key)
    path, paths = audio_files.find(key, folder), []
    if path is None:
        raise Fault(f"audio {key} is not in {folder}")
    while path is not None:
        paths.append(path)
        number = len(paths) + 1
        path = audio_files.find(f"{stem}_pair{number}{suffix}", folder)
        if path is None and number == 2:
            path = audio_files.find(f"{stem}_pair{suffix}", folder)
    if (row.get(f"file{number}") or row.get(f"audio{number}")) and not stem.endswith("_concat"):
        raise Fault(f"audio {stem}_pair{number}{suffix}, which goes with it, is not in {folder}")
    return paths
