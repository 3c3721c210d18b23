"""JSONL manifests with a prompt per line, in this project's format and in those of the CAAD authors.

    {"audios": [{"path", "text"}], "messages": [{"role", "content"}], "label", "category"}
    {"audios": [{"audio_filepath", "transcription"}], "messages": [...], "target", "category"}
    {"messages": [{"role", "content", "audios": [{"audio", "transcription"}]}], "target", "category"}

`category` names the benchmark of a line: `DS@<instance>`, or `MCR@<subset>@<condition>`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from caad_ds.data.audio_markers import AUDIO, END_AUDIO, START_AUDIO, user_content
from caad_ds.evaluation.benchmarks import audio_files
from caad_ds.evaluation.benchmarks.items import Clip, Fault, text_of
from caad_ds.evaluation.scoring.normalization import words
from caad_ds.utils.text import BOM, TextError, decode_line, each_once, is_text, numbered

PATHS = ("path", "audio", "audio_filepath")
TEXTS = ("text", "transcription")
CATEGORY = re.compile(rb'"category"\s*:\s*"(\w+)@')


@dataclass(frozen=True)
class Prompt:
    """A line's clips, its turns up to the last user turn with `<|AUDIO|>` once per clip, and the answer."""

    clips: tuple[Clip, ...]
    messages: list[dict]
    label: str

    @property
    def question(self) -> str:
        """The last turn's text without audio marks."""
        return without_marks(self.messages[-1]["content"])


def manifests(path: Path) -> list[Path]:
    """Return the file itself, or the manifests directly in a folder."""
    if path.is_file():
        return [path] if path.suffix == ".jsonl" else []
    return sorted(file for file in path.glob("*.jsonl") if not file.is_dir())


def benchmarks_in(path: Path) -> set[str]:
    """Return the prefixes of the categories in a file or folder: DS, MCR, ..."""
    found: set[str] = set()
    for file in manifests(path):
        with suppress(OSError), open(file, "rb") as lines:  # reported by `rows`
            found |= {name.decode() for line in lines for name in CATEGORY.findall(line)}
    return found


def rows(path: Path) -> Iterator[tuple[str, Path, dict | Fault]]:
    """Yield, per line, `FILE:LINE`, the folder that paths are relative to, and the row or a Fault.

    An unreadable file yields its name and a Fault.
    """
    for file in manifests(path):
        try:
            for number, line in numbered(file):
                if line.removeprefix(BOM).strip():
                    yield f"{file.name}:{number}", file.parent, _row(line)
        except (TextError, OSError) as error:
            yield file.name, file.parent, Fault(f"cannot be read ({error})")


def note_id(row: dict, where: str, seen: dict[tuple[object, str], str]) -> None:
    """Raise Fault if an earlier row of this category has the row's `id`; `seen` holds the first position of each.

    In the authors' training data the id is the audio's path, shared by several questions: it is ignored.
    """
    turns = row["messages"] if isinstance(row.get("messages"), list) else []
    holders = [row, *(turn for turn in turns if isinstance(turn, dict))]
    paths = [_path(audio) for part in holders if isinstance(part.get("audios"), list) for audio in part["audios"]]
    if row.get("id") is None or row["id"] in (*paths, "@".join(map(str, paths))):
        return
    first = seen.setdefault((row.get("category"), str(row["id"])), where)
    if first != where:
        raise Fault(f"id {row['id']!r} is that of {first}")


def prompt(row: dict, folder: Path) -> Prompt:
    """Return the prompt of a row; raises Fault if it is invalid."""
    turns = _turns(row)
    audios = _audios(row, turns)
    messages = _messages(turns, len(audios))
    if "label" in row and "target" in row and text_of(row["label"]) != text_of(row["target"]):
        raise Fault(f"label {row['label']!r:.60} is not its target {row['target']!r:.60}")
    return Prompt(
        tuple(_clip(audio, folder) for audio in audios), messages, answer(row.get("label", row.get("target")))
    )


def answer(label: object) -> str:
    """Return a label as text; raises Fault if it is missing, or nothing is left after normalisation."""
    text = text_of(label)
    if text is None or not words(text):
        raise Fault(f"label {label!r:.60} is missing, no text or number, or has no word left after normalisation")
    return text


def without_marks(content: str) -> str:
    """Return a turn's text without audio marks."""
    for mark in (START_AUDIO, AUDIO, END_AUDIO):
        content = content.replace(mark, "")
    return content.strip()


def _row(line: bytes) -> dict | Fault:
    """Parse a line; return the object or a Fault."""
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
    """Return the turns up to the last user turn."""
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
    """Return the row's audios, or those of its turns, which must then be marked in the same turn."""
    inside = []
    for turn in turns:
        own = turn.get("audios") or []
        if not isinstance(own, list):
            raise Fault("audios of a turn is not a list")
        if own and (marks := turn["content"].count(AUDIO)) not in (0, len(own)):
            raise Fault(f"{marks} {AUDIO} in a turn but {len(own)} audios")
        inside += own
    audios = row.get("audios") or inside
    if not isinstance(audios, list) or not audios:
        raise Fault("audios is missing or empty")
    if inside and [_path(audio) for audio in inside] != [_path(audio) for audio in audios]:
        raise Fault("audios of the row are not those of its messages")
    return audios


def _messages(turns: list[dict], audios: int) -> list[dict]:
    """Return the turns; if they have no audio marks, those of all clips are put before the last turn's text."""
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
        raise Fault(f"audio {path} has an offset, and evaluation reads whole files; save the part as its own file")
    if not isinstance(path, str) or not path or not isinstance(text, str):
        raise Fault(f"an audio is {audio!r:.60}, not a path or {{path, text}}")
    found = audio_files.find(path, folder)
    if found is None:
        raise Fault(f"audio {path} is not in {folder}")
    return Clip(found, text)
