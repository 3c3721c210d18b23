"""The instruction file with questions about audio."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from caad_ds.data.record import Record
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_yaml
from caad_ds.utils.text import as_text

ATTRIBUTE = "attribute"
IRRELEVANT = (
    "The window is open.",
    "It rained on Tuesday.",
    "The train leaves in the morning.",
    "There are three apples on the table.",
    "The shop closes at six.",
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attribute(_Strict):
    """An attribute that only the audio reveals.

    `name` is for the seed description; `questions` each name all options; `options` map a value, as in the metadata
    (`as_text`) and as the label of a right answer, to the statement for answers and hints.
    """

    name: str
    questions: Annotated[list[str], Field(min_length=1)]
    options: Annotated[dict[str, str], Field(min_length=2)]

    @model_validator(mode="after")
    def _are_distinct(self) -> "Attribute":
        for what, texts in (("options", self.options.keys()), ("statements", self.options.values())):
            first: dict[str, str] = {}
            for text in texts:
                key = " ".join(text.casefold().split()).strip(".!")
                if not key:
                    raise ValueError(f"one of the {what} is empty")
                if key in first:
                    raise ValueError(
                        f"the {what} {first[key]!r} and {text!r} are one; a false hint would be a true one"
                    )
                first[key] = text
        return self


class Prompts(_Strict):
    """Prompts about the audio as a whole: "describe what you hear", "repeat it", "go on".

    `share` of all prompts are of this kind; with `needs_text`, only for audios with a transcription.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    texts: Annotated[list[str], Field(min_length=1)]
    needs_text: bool = False


class Instructions(_Strict):
    """An instruction file: attributes by their key in the metadata, and prompts about them.

    `attributes` have questions and options; `facts` (key to name) are only in the seed description, with any value;
    `prompts` are by kind, and the rest of the shares goes to questions about attributes; `irrelevant` hints have
    nothing to do with the audio (there are defaults).
    """

    attributes: Annotated[dict[str, Attribute], Field(min_length=1)]
    irrelevant: Annotated[list[str], Field(min_length=1)] = list(IRRELEVANT)
    facts: dict[str, str] = {}
    prompts: dict[str, Prompts] = {}

    @model_validator(mode="after")
    def _whole(self) -> "Instructions":
        if (total := sum(kind.share for kind in self.prompts.values())) > 1 + 1e-9:
            raise ValueError(f"the shares of prompts add up to {total:g}, more than 1")
        if ATTRIBUTE in self.prompts:
            raise ValueError(f"prompts: {ATTRIBUTE!r} is the kind of the questions about attributes; name it otherwise")
        if doubles := self.facts.keys() & self.attributes.keys():
            raise ValueError(f"{min(doubles)!r} is both an attribute and a fact")
        return self

    def shares(self, record: Record) -> dict[str, float]:
        """Return the shares of prompt kinds that are possible for a record; not normalised."""
        has_text = bool(record.get("audios")) and all(audio.get("text") for audio in record["audios"])
        shares = {kind: prompts.share for kind, prompts in self.prompts.items() if has_text or not prompts.needs_text}
        rest = 1 - sum(prompts.share for prompts in self.prompts.values())
        return shares | ({ATTRIBUTE: rest} if rest > 1e-9 and self.known(record) else {})

    def named(self, record: Record) -> list[tuple[str, str]]:
        """Return names and values for the seed description: attributes and facts in the record's metadata."""
        metadata = record.get("metadata") or {}
        known = [(self.attributes[key].name, as_text(metadata[key])) for key in self.known(record)]
        return known + [
            (name, as_text(metadata[key])) for key, name in self.facts.items() if metadata.get(key) is not None
        ]

    @classmethod
    def load(cls, path: Path, only: Sequence[str] | None = None) -> "Instructions":
        """Read a YAML file, with only the attributes in `only` if given; UserError names a wrong key."""
        whole = read_yaml(path, cls)
        if unknown := [key for key in only or () if key not in whole.attributes]:
            raise UserError(f"{path}: has no attribute {unknown[0]} (it has {', '.join(whole.attributes)})")
        return whole.model_copy(update={"attributes": {k: whole.attributes[k] for k in only or whole.attributes}})

    def known(self, record: Record) -> list[str]:
        """Return the attributes in a record's metadata, in the file's order; UserError if a value is not an option."""
        metadata = record.get("metadata") or {}
        known = [key for key in self.attributes if metadata.get(key) is not None]
        for key in known:
            if as_text(metadata[key]) not in self.attributes[key].options:
                options = ", ".join(self.attributes[key].options)
                raise UserError(
                    f"record {record['id']}: {key} is {metadata[key]!r}, which the instruction file does not "
                    f"know; its options are {options}"
                )
        return known
