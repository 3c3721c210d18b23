"""`metadata["prompt"]`: what `prep describe` records about a prompt, in one key beside the user's own."""

from typing import Any

from caad_ds.data.record import Record
from caad_ds.utils.errors import UserError

PROMPT = "prompt"
ALWAYS = ("kind", "condition", "question")
OF_ATTRIBUTES = ("attribute", "label", "statement")
OPTIONS = "options"


def prompt_of(record: Record) -> dict[str, Any]:
    """Return what is recorded about the record's prompt, {} if nothing is.

    The keys are `kind`, `condition` and `question` (without the hint); for a question about an attribute also
    `attribute`, `label`, `statement` (the right answer) and `options` (a list). UserError if the key holds something
    else, which then is the user's.
    """
    value = (record.get("metadata") or {}).get(PROMPT)
    if value is None:
        return {}
    if fault := _fault(value):
        raise UserError(
            f"{PROMPT!r} of its metadata is kept for what `caad-ds prep describe` writes ({fault}); rename it"
        )
    return value


def _fault(value: object) -> str:
    """Return why `prep describe` cannot have written a value, "" if it can."""
    if not isinstance(value, dict):
        return f"an object, not {value!r:.60}"
    if missing := [name for name in ALWAYS if name not in value]:
        return f"{missing[0]!r} is missing"
    if foreign := [name for name in value if name not in (*ALWAYS, *OF_ATTRIBUTES, OPTIONS)]:
        return f"there is no {foreign[0]!r:.60} in it"
    options = value.get(OPTIONS, [])
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        return f"{OPTIONS!r} must be a list of texts, not {options!r:.60}"
    wrong = [name for name in value if name != OPTIONS and not isinstance(value[name], str)]
    return f"{wrong[0]!r} must be a text, not {value[wrong[0]]!r:.60}" if wrong else ""
