"""What is asked about an audio: the instruction file, and what can be drawn from it for one record."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from caad_ds.errors import UserError
from caad_ds.files import read_yaml

CONDITIONS = ("none", "faithful", "adversarial", "irrelevant")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attribute(_Strict):
    """An attribute that only the audio tells.

    `name` as the seed description gives it; `questions` that each name all options; `options` from a value, as it
    stands in the metadata and as the label of a right answer, to the statement used in answers and hints.
    """

    name: str
    questions: Annotated[list[str], Field(min_length=1)]
    options: Annotated[dict[str, str], Field(min_length=2)]


class Instructions(_Strict):
    """An instruction file: attributes by their key in the metadata, and hints that have to do with none of them."""

    attributes: Annotated[dict[str, Attribute], Field(min_length=1)]
    irrelevant: Annotated[list[str], Field(min_length=1)]

    @classmethod
    def load(cls, path: Path, only: Sequence[str] | None = None) -> "Instructions":
        """Read a YAML file, with `only` those attributes if given; UserError names the key that is wrong."""
        whole = read_yaml(path, cls)
        if unknown := [key for key in only or () if key not in whole.attributes]:
            raise UserError(f"{path}: has no attribute {unknown[0]} (it has {', '.join(whole.attributes)})")
        return whole.model_copy(update={"attributes": {k: whole.attributes[k] for k in only or whole.attributes}})

    def known(self, record: dict) -> list[str]:
        """The attributes that the record's metadata holds, in the file's order; UserError if a value is no option."""
        metadata = record.get("metadata") or {}
        known = [key for key in self.attributes if metadata.get(key) is not None]
        for key in known:
            if metadata[key] not in list(self.attributes[key].options):  # a list, since not every value has a hash
                options = ", ".join(self.attributes[key].options)
                raise UserError(
                    f"record {record['id']}: {key} is {metadata[key]!r}, which the instruction file does not know; "
                    f"its options are {options}"
                )
        return known


@dataclass(frozen=True)
class Ask:
    """A question about one attribute of a record: the right `label` and the `statement` that says so."""

    attribute: str
    question: str
    label: str
    statement: str


def ask(instructions: Instructions, record: dict, key: str, rng: Random) -> Ask:
    """One of the attribute's questions, with the answer that the record's metadata gives."""
    attribute, label = instructions.attributes[key], record["metadata"][key]
    return Ask(key, rng.choice(attribute.questions), label, attribute.options[label])


def hint(instructions: Instructions, asked: Ask, condition: str, rng: Random) -> str | None:
    """What the prompt claims beside the question: the truth, another option, something else, or nothing."""
    if condition == "none":
        return None
    if condition == "faithful":
        return asked.statement
    if condition == "irrelevant":
        return rng.choice(instructions.irrelevant)
    options = instructions.attributes[asked.attribute].options
    return rng.choice([statement for label, statement in options.items() if label != asked.label])
