"""Description of a benchmark: a YAML file that defines where its questions, choices, answers and audio are.

Shipped descriptions are in `descriptions/`; a user's own is given by its path.
"""

from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from caad_ds.evaluation.benchmarks.from_description.templates import problem
from caad_ds.evaluation.scoring.matching_rules import NEEDS_CHOICES, RuleName
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_yaml

SHIPPED = Path(__file__).parent.parent / "descriptions"
ENDINGS = (".yaml", ".yml")
YES_NO = ("yes", "no")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Source of a part of the published format: files of a public repository at a commit."""

    of: str
    repository: str
    commit: str
    files: list[str]
    release: str | None = None
    note: str | None = None


class Columns(_Strict):
    """The columns of a row: each the name of a column (a JSON key), or a template over the `row`.

    `choices` is a column with a list, or a list of columns with one choice each. `audio` holds a path, a list of paths,
    or bytes in a table. Accuracies are also reported per value of `group`.
    """

    answer: str
    audio: str
    id: str | None = None
    question: str | None = None
    choices: str | list[str] | None = None
    group: str | None = None
    transcription: str | None = None


class Description(_Strict):
    """The keys of a description; docs/benchmarks.md explains them."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    title: str
    data: str
    sources: list[Source] = []
    files: list[str] = []
    hub: list[str] = []
    rows: str | None = None
    columns: Columns
    question: str | None = None
    choices: list[str] = []
    answers: dict[str, str] = {}
    answer_is: Literal["text", "letter", "index"] = "text"
    audio_folders: list[str] = []
    prompt: str = "{{ question }}"
    matching: RuleName
    score: Literal["accuracy", "yes_no"] = "accuracy"

    @model_validator(mode="after")
    def _fits_together(self) -> "Description":
        if not self.files and not self.hub:
            raise ValueError("names neither files nor hub; give where its rows are")
        if (self.columns.question is None) == (self.question is None):
            raise ValueError("give columns.question or question, one of them")
        if self.columns.choices is not None and self.choices:
            raise ValueError("give columns.choices or choices, one of them")
        if (self.score == "yes_no") != (self.matching == "yes_no"):
            raise ValueError("score yes_no and matching yes_no belong together")
        has_choices = bool(self.columns.choices or self.choices)
        if self.score == "yes_no" and has_choices:
            raise ValueError("score yes_no has the choices yes and no; remove choices")
        if not has_choices and (self.matching in NEEDS_CHOICES or self.answer_is != "text"):
            what = f"matching {self.matching}" if self.matching in NEEDS_CHOICES else f"answer_is {self.answer_is}"
            raise ValueError(f"{what} needs choices; give columns.choices or choices")
        return self

    @model_validator(mode="after")
    def _names_files(self) -> "Description":
        for pattern in self.files:
            if not pattern.strip():
                raise ValueError("files has an empty name; give a name, a pattern, or . for all tables of the folder")
            if PurePath(pattern).is_absolute():
                raise ValueError(f"files: {pattern} is absolute; give it relative to the folder of --data")
            if any("**" in part and part != "**" for part in PurePath(pattern).parts):
                raise ValueError(f"files: in {pattern} ** is only a part of a name; write **/*.csv for all folders")
        return self

    @model_validator(mode="after")
    def _has_templates(self) -> "Description":
        named = {f"columns.{key}": value for key, value in self.columns if isinstance(value, str)}
        for key, text in {**named, "question": self.question or "", "prompt": self.prompt}.items():
            if fault := problem(text):
                raise ValueError(f"{key}: {fault}")
        return self

    @property
    def fixed_choices(self) -> list[str]:
        """The choices of every question; empty if rows have their own, or there are none."""
        return [*YES_NO] if self.score == "yes_no" else self.choices


def shipped() -> dict[str, Path]:
    """Return the files of the descriptions that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def description_file(named: str | Path) -> Path | None:
    """Return the file of a description given by path, or by name if nothing is at that path; None if there is none."""
    path = Path(named)
    if path.exists():
        return path if path.is_file() and path.suffix in ENDINGS else None
    return shipped().get(str(named))


def read_description(file: Path) -> Description:
    """Read and validate a description; raises UserError with the file, the key and the problem."""
    found: Description = read_yaml(file, Description)
    if file.parent != SHIPPED and found.name in shipped():
        raise UserError(f"{file}: name: {found.name} is that of a shipped description; give it another")
    return found
