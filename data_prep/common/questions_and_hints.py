"""Draw a record's question and its hint from the instruction file."""

from dataclasses import dataclass
from random import Random

from caad_ds.data.instructions import ATTRIBUTE, Instructions
from caad_ds.data.record import Record
from caad_ds.utils.text import as_text

CONDITIONS = ("none", "faithful", "adversarial", "irrelevant")


@dataclass(frozen=True)
class Ask:
    """A question about one attribute of a record, with the right `label` and its `statement`."""

    attribute: str
    question: str
    label: str
    statement: str
    kind: str = ATTRIBUTE


@dataclass(frozen=True)
class Prompt:
    """A prompt of a `kind` in the instruction file, not about a single attribute."""

    kind: str
    question: str


def ask(instructions: Instructions, record: Record, key: str, rng: Random) -> Ask:
    """Draw one of the attribute's questions, with the answer from the record's metadata."""
    attribute, label = instructions.attributes[key], as_text((record.get("metadata") or {})[key])
    return Ask(key, rng.choice(attribute.questions), label, attribute.options[label])


def hint(instructions: Instructions, question: Ask, condition: str, rng: Random) -> str | None:
    """Draw the prompt's hint: the truth, another option, something irrelevant, or None."""
    if condition == "none":
        return None
    if condition == "faithful":
        return question.statement
    if condition == "irrelevant":
        return rng.choice(instructions.irrelevant)
    options = instructions.attributes[question.attribute].options
    return rng.choice([statement for label, statement in options.items() if label != question.label])
