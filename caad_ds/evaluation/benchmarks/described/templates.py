"""Templates of descriptions: Jinja in its sandbox, which reads a row and can do nothing else.

Published prompts enumerate choices, which `str.format` cannot; public runners write them in Jinja too.
"""

from collections.abc import Mapping
from string import ascii_uppercase

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from caad_ds.evaluation.benchmarks.items import Fault

ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
MARK = "{{"


def problem(text: str) -> str | None:
    """Why a text is no template, or None."""
    try:
        ENVIRONMENT.from_string(text)
    except TemplateError as error:
        return f"it is no template ({' '.join(str(error).split())})"
    return None


def rendered(text: str, **values: object) -> str:
    """A template with these values, and `letters` A to Z; Fault where the row has not what it asks for."""
    try:
        return ENVIRONMENT.from_string(text).render(letters=ascii_uppercase, **values)
    except (TemplateError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise Fault(f"the template {text!r:.60} cannot be filled in ({' '.join(str(error).split())})") from error


def of_row(named: str, row: Mapping[str, object]) -> object:
    """The value of a column, or of a template over the row; Fault where there is no such column."""
    if MARK in named:
        return rendered(named, row=row)
    if named not in row:
        raise Fault(f"has no {named!r}, it has {', '.join(map(str, row)) or 'nothing'}")
    return row[named]
