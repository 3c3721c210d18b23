"""MCR-BENCH in the CAAD authors' manifests: a line per condition, with category `MCR@<subset>@<condition>`.

Lines belong to one row if they are about the same clip, as in the authors' scoring, and the lines with hints repeat the
neutral line's question. A clip with several questions has several neutral lines.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caad_ds.evaluation.benchmarks import prompt_manifest
from caad_ds.evaluation.benchmarks.items import Fault
from caad_ds.evaluation.benchmarks.prompt_manifest import Prompt
from caad_ds.evaluation.scoring.matching import matches

NEUTRAL = "neutral"


@dataclass(frozen=True)
class _Line:
    where: str
    condition: str
    prompt: Prompt


Joined = tuple[str, str, dict[str, Prompt]]


def read(path: Path, kind: str, conditions: Sequence[str]) -> tuple[list[Joined], list[dict]]:
    """Return id, subset and prompts by condition of each complete row, and `{id, reason}` of what is rejected."""
    lines: dict[tuple[str, tuple[Path, ...]], list[_Line]] = defaultdict(list)
    ids: dict[tuple[object, str], str] = {}
    rejected = []
    for where, folder, row in prompt_manifest.rows(path):
        try:
            if isinstance(row, Fault):
                raise row
            subset, condition = _category(row.get("category"), kind, conditions)
            prompt_manifest.note_id(row, where, ids)
            prompt = prompt_manifest.prompt(row, folder)
            same_clip = lines[subset, tuple(clip.path for clip in prompt.clips)]
            _check_new(condition, prompt, same_clip)
            same_clip.append(_Line(where, condition, prompt))
        except Fault as fault:
            rejected.append({"id": where, "reason": str(fault)})
    found = []
    number: dict[str, int] = defaultdict(int)
    for (subset, _), same_clip in lines.items():
        rows, strays = _rows(same_clip)
        rejected += [{"id": line.where, "reason": str(reason)} for line, reason in strays]
        for row_lines in rows:
            name = f"{subset}/{number[subset]}"
            number[subset] += 1
            try:
                found.append((name, subset, _prompts(row_lines, conditions)))
            except Fault as fault:
                rejected.append({"id": name, "reason": f"{row_lines[0].where}: {fault}"})
    return found, rejected


def hint(text: str, question: str) -> str | None:
    """Return a line's text without its question; None if nothing is left."""
    return text.replace(question, "", 1).strip() or None


def _category(category: object, kind: str, conditions: Sequence[str]) -> tuple[str, str]:
    parts = [part.strip() for part in category.split("@")] if isinstance(category, str) else []
    if len(parts) != 3 or parts[0] != kind or not parts[1]:
        raise Fault(f"category {category!r} is not {kind}@<subset>@<condition>")
    if parts[2].lower() not in conditions:
        raise Fault(f"unknown condition {parts[2]!r}; the conditions are {', '.join(conditions)}")
    return parts[1], parts[2].lower()


def _check_new(condition: str, prompt: Prompt, same_clip: list[_Line]) -> None:
    for line in same_clip:
        if line.condition == condition and line.prompt.question == prompt.question:
            raise Fault(f"asks what {line.where} asks about the same clip")


def _rows(same_clip: list[_Line]) -> tuple[list[list[_Line]], list[tuple[_Line, Fault]]]:
    """Group the lines about one clip into rows, neutral line first; return also the lines that fit no row."""
    neutral = [line for line in same_clip if line.condition == NEUTRAL]
    others = [line for line in same_clip if line.condition != NEUTRAL]
    if not neutral:
        return [others], []
    rows = {line.prompt.question: [line] for line in neutral}
    strays = []
    for line in others:
        repeated = [question for question in rows if _repeats(line.prompt.question, question)]
        if repeated:
            rows[max(repeated, key=len)].append(line)
        else:
            none = f"none of the {len(rows)} questions" if len(rows) > 1 else f"not the question of {neutral[0].where}"
            strays.append((line, Fault(f"asks {none} about {line.prompt.clips[0]}")))
    return list(rows.values()), strays


def _repeats(text: str, question: str) -> bool:
    return question in text or matches(text, question)


def _prompts(row: list[_Line], conditions: Sequence[str]) -> dict[str, Prompt]:
    """Return the prompt of each condition; raises Fault if one is missing, duplicate or inconsistent."""
    by_condition: dict[str, list[_Line]] = {condition: [] for condition in conditions}
    for line in row:
        by_condition[line.condition].append(line)
    clips = row[0].prompt.clips
    if len(clips) != 1:
        raise Fault(f"asks about {len(clips)} audios, not one")
    if missing := [condition for condition, lines in by_condition.items() if not lines]:
        raise Fault(f"{clips[0]} has no line for {', '.join(missing)}")
    for condition, lines in by_condition.items():
        if len(lines) > 1:
            raise Fault(f"{clips[0]} has several lines for {condition} ({', '.join(line.where for line in lines)})")
    if len(labels := dict.fromkeys(line.prompt.label for line in row)) > 1:
        raise Fault(f"the answers about {clips[0]} differ between conditions: {', '.join(labels)}")
    if any(line.prompt.clips != clips for line in row):
        raise Fault(f"the transcriptions of {clips[0]} differ between conditions")
    return {condition: lines[0].prompt for condition, lines in by_condition.items()}
