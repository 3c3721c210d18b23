"""Mistakes in files, in our words."""

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from caad_ds.utils.validation_errors import mistakes


class Part(BaseModel):
    """A section within another."""

    model_config = ConfigDict(extra="forbid", strict=True)
    answer: str
    choices: str | list[str] = "a"


class Whole(BaseModel):
    """A file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "a"
    part: Part | None = None
    named: dict[str, Part] | None = None
    texts: list[str] | None = None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"part": {"answr": "x", "answer": "y"}}, "unknown key part.answr; did you mean part.answer?"),
        ({"part": {"other": 1}}, "unknown key part.other; remove it; part.answer is missing"),
        ({"named": {"a": {}}}, "named.a.answer is missing"),
        ({"texts": ["a", 1]}, "texts.1: expected a text, found 1"),
        ({"part": {"answer": "a", "choices": ["a", 1.1]}}, "part.choices.1: expected a text, found 1.1"),
        ({"part": {"answer": "a", "choices": 3}}, "part.choices: expected a text or a list, found 3"),
        ({"name": "A B"}, "name: 'A B' does not match ^[a-z]+$"),
        ({f"k{n}": 1 for n in range(6)}, "; and 1 more mistake"),
        ([], "the file: expected a mapping (key: value), found a list"),
    ],
)
def test_every_mistake_is_named_where_it_is(value, said):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Whole).validate_python(value)
    assert mistakes(caught.value, Whole).endswith(said)
