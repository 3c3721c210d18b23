"""Load a benchmark by its description: an item per row, and the reasons for rejected rows."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from caad_ds.data.audio_markers import AUDIO, user_content
from caad_ds.evaluation.benchmarks import audio_files
from caad_ds.evaluation.benchmarks.from_description.description import Description
from caad_ds.evaluation.benchmarks.from_description.hub import hub_folder
from caad_ds.evaluation.benchmarks.from_description.question_files import SourceRow, absent, files_of, read_rows
from caad_ds.evaluation.benchmarks.from_description.templates import of_row, rendered
from caad_ds.evaluation.benchmarks.hf_datasets import Cell
from caad_ds.evaluation.benchmarks.items import Clip, Fault, Item, by_subset, first_reason, parted, text_of
from caad_ds.evaluation.scoring.bootstrap_scores import POOLED
from caad_ds.evaluation.scoring.matching_rules import can_match, judged
from caad_ds.utils.errors import UserError
from caad_ds.utils.text import trimmed


@dataclass(frozen=True)
class Described:
    """The usable rows of a described benchmark; subsets are the values of its `group`, else there is one."""

    description: Description
    items: list[Item] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    rejected: list[dict] = field(default_factory=list)
    limited: bool = False  # rows were left out by a limit
    from_hub: bool = False

    conditions: ClassVar[tuple[None]] = (None,)
    asked: ClassVar[None] = None

    @property
    def kind(self) -> str:
        """The description's name."""
        return self.description.name

    @property
    def result_kind(self) -> str:
        """The description's `score`."""
        return self.description.score

    @property
    def setup(self) -> Mapping[str, str]:
        """Score, rule and the hub ids that were read; prompts are covered by the content hash."""
        hub = {"hub": ", ".join(self.description.hub)} if self.from_hub else {}
        return {"figures": self.description.score, "rule": self.description.matching, **hub}

    def verdicts(self, item: Item, answer: str) -> dict:
        """Return whether an answer is right by each matching rule; `right` is the description's rule."""
        known = item.choices or self.options.get(item.subset, ())
        return judged(self.description.matching, answer, item.gt, known, item.question, item.choices)

    @staticmethod
    def load(description: Description, folder: Path | None, limit: int | None = None) -> "Described":
        """Read the files in `folder`, or those of the hub ids if it is None.

        Missing files are listed under `rejected`. Raises UserError if there are none, or no row can be used.
        """
        items, rejected = parted(_read(description, folder))
        missing = absent(description, folder) if folder else []
        rejected += [{"id": name, "reason": f"there is none in {folder}"} for name in missing]
        if not items:
            raise UserError(
                f"{folder or description.name}: no row of {description.name} can be used ({first_reason(rejected)})"
            )
        subsets = by_subset(items)
        kept = [item for members in subsets.values() for item in members[:limit]]
        fixed = description.fixed_choices
        options = {subset: sorted(fixed) for subset in subsets} if fixed else {}
        if not fixed and description.columns.choices is None:  # free answers: the labels of the subset
            options = {subset: sorted({item.gt for item in members}) for subset, members in subsets.items()}
        return Described(description, kept, options, rejected, limited=len(kept) < len(items), from_hub=folder is None)


def _read(description: Description, folder: Path | None) -> Iterator[Item | dict]:
    """Yield an item per row, or `{id, reason}`; ids are the rows' own, else their numbers."""
    first: dict[str, str] = {}
    id_column = description.columns.id
    files = _files(description, folder).items()
    rows = (source for file, label in files for source in read_rows(file, label, description.rows))
    for number, source in enumerate(rows):
        name = source.where
        try:
            if isinstance(source.row, Fault):
                raise source.row
            name = f"{description.name}/{number}" if id_column is None else _text(id_column, source.row, "id")
            if first.setdefault(name, source.where) != source.where:
                raise Fault(f"id {name!r} is that of {first[name]}")
            item = _item(description, name, source, folder)
        except Fault as fault:
            yield {"id": name, "reason": f"{source.where}: {fault}" if name != source.where else str(fault)}
        else:
            yield item


def _files(description: Description, folder: Path | None) -> dict[Path, str]:
    """Return the files and their names in messages: relative paths, prefixed by the data set's id if from the hub."""
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that holds the files of {description.name}")
    if folder is not None:
        return {file: file.relative_to(folder).as_posix() for file in files_of(description, folder)}
    if not description.hub:
        raise UserError(f"--data: {description.name} needs the folder of its files; {description.data}")
    all_tables = description.model_copy(update={"files": []})
    folders = {name: hub_folder(name) for name in description.hub}
    return {
        file: f"{name}/{file.relative_to(path).as_posix()}"
        for name, path in folders.items() for file in files_of(all_tables, path)
    }  # fmt: skip


def _item(description: Description, name: str, source: SourceRow, folder: Path | None) -> Item:
    assert isinstance(source.row, dict)
    row, columns = source.row, description.columns
    question = rendered(description.question, row=row) if description.question else _question(columns.question, row)
    choices = _choices(description, row)
    label = _label(description, row, choices)
    prompt = rendered(description.prompt, row=row, question=question, choices=choices)
    if AUDIO in prompt:
        raise Fault(f"its prompt holds {AUDIO}, which stands for an audio: remove it")
    clips = _clips(description, source, folder)
    # The choices of a yes-no question have no order, and so no letters.
    listed = () if description.score == "yes_no" else tuple(choices)
    messages = [{"role": "user", "content": user_content(prompt, audios=len(clips))}]
    return Item(name, _group(description, row), None, clips, messages, prompt, label, choices=listed)


def _choices(description: Description, row: Mapping[str, object]) -> list[str]:
    named = description.columns.choices
    if named is None:
        return description.fixed_choices
    given = [of_row(column, row) for column in named] if isinstance(named, list) else of_row(named, row)
    if isinstance(given, str):  # a cell of a CSV file or a table
        try:
            given = json.loads(given)
        except ValueError as error:
            raise Fault(f"its choices {given!r:.60} are no list of texts, as JSON writes it") from error
    # Kept as published: choices may be empty, and prompts show the white space around them.
    choices = (
        [choice if isinstance(choice, str) else text_of(choice) for choice in given] if isinstance(given, list) else []
    )
    if len(choices) < 2 or None in choices:
        raise Fault(f"its choices are {given!r:.60}, not two or more texts")
    return [choice for choice in choices if choice is not None]


def _label(description: Description, row: Mapping[str, object], choices: list[str]) -> str:
    given = text_of(of_row(description.columns.answer, row))
    if given is None:
        raise Fault("its answer is missing, empty, or no text or number")
    if description.answers:
        if given not in description.answers:
            raise Fault(f"its answer {given!r:.60} is none of {', '.join(description.answers)}")
        given = description.answers[given]
    if description.answer_is != "text":
        index = _choice_index(given, description.answer_is)
        if index is None or not 0 <= index < len(choices):
            raise Fault(f"its answer {given!r:.60} is no {description.answer_is} of its {len(choices)} choices")
        given = choices[index]
    if description.score == "yes_no":
        given = given.casefold()
    if choices:
        same = next((choice for choice in choices if trimmed(choice) == trimmed(given)), None)
        if same is None:
            raise Fault(f"its answer {given!r:.60} is not among its choices: {', '.join(choices)}")
        given = same
    if not can_match(description.matching, given):
        raise Fault(f"its answer {given!r:.60} has no word that the rule {description.matching} reads")
    return given


def _choice_index(given: str, kind: str) -> int | None:
    """Return the index in the choices of an answer that is a letter, or an index from 0; None if it is neither."""
    if kind == "index":
        return int(given) if given.isdecimal() else None
    return ord(given.upper()) - ord("A") if len(given) == 1 and given.isascii() and given.isalpha() else None


def _group(description: Description, row: Mapping[str, object]) -> str:
    named = description.columns.group
    group = description.name if named is None else _text(named, row, "group")
    if group == POOLED:
        raise Fault(f"its group is called {POOLED!r}, as all items together are")
    return group


def _clips(description: Description, source: SourceRow, folder: Path | None) -> tuple[Clip, ...]:
    assert isinstance(source.row, dict)
    given = of_row(description.columns.audio, source.row)
    named = description.columns.transcription
    text = "" if named is None else text_of(of_row(named, source.row)) or ""
    if isinstance(given, Cell):
        return (Clip(source.file, text, given),)
    roots = [source.file.parent, *([folder] if folder else [])]
    folders = [root / name for root in roots for name in ("", *description.audio_folders)]
    names = given if isinstance(given, list) and given else [given]
    return tuple(Clip(_audio(name, folders), text) for name in names)


def _audio(name: object, folders: list[Path]) -> Path:
    if not isinstance(name, str) or not name.strip():
        raise Fault(f"its audio is {name!r:.60}, not a path")
    path = audio_files.find(name, *folders)
    if path is None:
        raise Fault(f"audio {name} is not in {', '.join(dict.fromkeys(map(str, folders)))}")
    return path


def _question(named: str | None, row: Mapping[str, object]) -> str:
    """Return the question as written, including surrounding white space."""
    given = of_row(named or "", row)
    text = text_of(given)
    if text is None:
        raise Fault("its question is empty, or no text or number")
    return given if isinstance(given, str) else text


def _text(named: str, row: Mapping[str, object], what: str) -> str:
    text = text_of(of_row(named, row))
    if text is None:
        raise Fault(f"its {what} is empty, or no text or number")
    return text
