"""JSONL manifests: a prompt a line, in our form and in those of the CAAD authors.

    {"audios": [{"path", "text"}], "messages": [{"role", "content"}], "label", "category"}
    {"audios": [{"audio_filepath", "transcription"}], "messages": [...], "target", "category"}
    {"messages": [{"role", "content", "audios": [{"audio", "transcription"}]}], "target", "category"}

`category` says of which benchmark a line is: `DS@<instance>`, or `MCR@<subset>@<condition>`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from caad_ds.data.markers import AUDIO, END_AUDIO, START_AUDIO, user_content
from caad_ds.evaluation.benchmarks import audio_files
from caad_ds.evaluation.benchmarks.items import Clip, Fault, text_of
from caad_ds.evaluation.scoring.matching import words
from caad_ds.utils.text import BOM, TextError, decode_line, each_once, is_text, numbered

PATHS = ("path", "audio", "audio_filepath")
TEXTS = ("text", "transcription")
CATEGORY = re.compile(rb'"category"\s*:\s*"(\w+)@')


@dataclass(frozen=True)
class Prompt:
    """What a line asks: clips, the turns up to the last of the user with `<|AUDIO|>` once per clip, and the answer."""

    clips: tuple[Clip, ...]
    messages: list[dict]
    label: str

    @property
    def question(self) -> str:
        """The last turn's text without marks of audio."""
        return without_marks(self.messages[-1]["content"])


def manifests(path: Path) -> list[Path]:
    """The file itself, or the manifests directly in a folder."""
    if path.is_file():
        return [path] if path.suffix == ".jsonl" else []
    return sorted(file for file in path.glob("*.jsonl") if not file.is_dir())


def benchmarks_in(path: Path) -> set[str]:
    """What the categories in a file or folder begin with: DS, MCR, ..."""
    found: set[str] = set()
    for file in manifests(path):
        with suppress(OSError), open(file, "rb") as lines:  # `rows` tells it
            found |= {name.decode() for line in lines for name in CATEGORY.findall(line)}
    return found


def rows(path: Path) -> Iterator[tuple[str, Path, dict | Fault]]:
    """`FILE:LINE`, the folder that paths are relative to, and the row of each line, or why it is none.

    Of a file that cannot be read, its name and why.
    """
    for file in manifests(path):
        try:
            for place, line in numbered(file):
                if line.removeprefix(BOM).strip():
                    yield f"{file.name}:{place}", file.parent, _row(line)
        except (TextError, OSError) as error:
            yield file.name, file.parent, Fault(f"cannot be read ({error})")


def note_id(row: dict, where: str, seen: dict[tuple[object, str], str]) -> None:
    """Fault where another row of this category has the row's `id`; `seen` holds where each was first.

    In the authors' training data the id is the audio's path, which several questions may share: that is none.
    """
    turns = row["messages"] if isinstance(row.get("messages"), list) else []
    held = [row, *(turn for turn in turns if isinstance(turn, dict))]
    paths = [_path(audio) for each in held if isinstance(each.get("audios"), list) for audio in each["audios"]]
    if row.get("id") is None or row["id"] in (*paths, "@".join(map(str, paths))):
        return
    first = seen.setdefault((row.get("category"), str(row["id"])), where)
    if first != where:
        raise Fault(f"id {row['id']!r} is that of {first}")


def prompt(row: dict, folder: Path) -> Prompt:
    """What a row asks; Fault where it cannot be asked."""
    turns = _turns(row)
    audios = _audios(row, turns)
    messages = _messages(turns, len(audios))
    if "label" in row and "target" in row and text_of(row["label"]) != text_of(row["target"]):
        raise Fault(f"label {row['label']!r:.60} is not its target {row['target']!r:.60}")
    return Prompt(
        tuple(_clip(audio, folder) for audio in audios), messages, answer(row.get("label", row.get("target")))
    )


def answer(label: object) -> str:
    """A label as text; Fault where it is none, or nothing of it is left after normalisation."""
    text = text_of(label)
    if text is None or not words(text):
        raise Fault(f"label {label!r:.60} is missing, no text or number, or has no word left after normalisation")
    return text


def without_marks(content: str) -> str:
    """A turn's text without marks of audio."""
    for mark in (START_AUDIO, AUDIO, END_AUDIO):
        content = content.replace(mark, "")
    return content.strip()


def _row(line: bytes) -> dict | Fault:
    """An object with text."""
    try:
        row = json.loads(decode_line(line), object_pairs_hook=each_once)
    except TextError as error:
        return Fault(str(error))
    except (ValueError, RecursionError) as error:
        return Fault(f"not JSON ({error})")
    if not isinstance(row, dict):
        return Fault(f"is a {type(row).__name__}, not an object")
    return row if is_text(row) else Fault("holds half of a surrogate pair, which is no character")


def _turns(row: dict) -> list[dict]:
    """Up to the last of the user."""
    turns = row.get("messages")
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
        raise Fault("messages is not a list of {role, content}")
    last = max((k for k, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if last is None:
        raise Fault("messages holds no turn of the user")
    return turns[: last + 1]


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)


def _audios(row: dict, turns: list[dict]) -> list:
    """The row's, or those inside its turns, which are then marked in the same turn."""
    inside = []
    for turn in turns:
        held = turn.get("audios") or []
        if not isinstance(held, list):
            raise Fault("audios of a turn is not a list")
        if held and (marks := turn["content"].count(AUDIO)) not in (0, len(held)):
            raise Fault(f"{marks} {AUDIO} in a turn but {len(held)} audios")
        inside += held
    audios = row.get("audios") or inside
    if not isinstance(audios, list) or not audios:
        raise Fault("audios is missing or empty")
    if inside and [_path(audio) for audio in inside] != [_path(audio) for audio in audios]:
        raise Fault("audios of the row are not those of its messages")
    return audios


def _messages(turns: list[dict], audios: int) -> list[dict]:
    """The turns; without marks of audio in them, each clip is put before the last."""
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    marks = sum(turn["content"].count(AUDIO) for turn in turns)
    if marks not in (0, audios):
        raise Fault(f"{marks} {AUDIO} in its messages but {audios} audios")
    if not marks:
        turns[-1]["content"] = user_content(turns[-1]["content"], audios=audios)
    return turns


def _path(audio: object) -> object:
    if isinstance(audio, dict):
        return next((audio[name] for name in PATHS if audio.get(name)), None)
    return audio


def _clip(audio: object, folder: Path) -> Clip:
    path = _path(audio)
    text = next((audio[name] for name in TEXTS if audio.get(name)), "") if isinstance(audio, dict) else ""
    if isinstance(audio, dict) and audio.get("offset") is not None:
        raise Fault(f"audio {path} has an offset, and evaluation hears whole files; give the part a file of its own")
    if not isinstance(path, str) or not path or not isinstance(text, str):
        raise Fault(f"an audio is {audio!r:.60}, not a path or {{path, text}}")
    found = audio_files.find(path, folder)
    if found is None:
        raise Fault(f"audio {path} is not in {folder}")
    return Clip(found, text)
