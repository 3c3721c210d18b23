"""Templates of descriptions, rendered by sandboxed Jinja, which can only read the row.

Published prompts enumerate choices, which `str.format` cannot do; public runners use Jinja too.
"""

from collections.abc import Mapping
from functools import cache
from string import ascii_uppercase
from typing import Any

from jinja2 import StrictUndefined, Template, Undefined, pass_eval_context
from jinja2.filters import sync_do_join
from jinja2.nodes import EvalContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from caad_ds.evaluation.benchmarks.items import Fault


class Null(StrictUndefined):
    """A null in a row: false in a condition, otherwise an error like a missing value, never the word "None"."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # the base class raises
        """Return False."""
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        """Return whether the other is null too."""
        return other is None or isinstance(other, Null)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        """Return the opposite of `==`."""
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        """Return the hash of None."""
        return hash(None)


class Environment(ImmutableSandboxedEnvironment):
    """Look up keys of a row before methods of `dict`: `row.items` is a column of that name."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """See Jinja."""
        held = isinstance(obj, Mapping) and attribute in obj
        return self._known(obj[attribute] if held else super().getattr(obj, attribute), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """See Jinja."""
        return self._known(super().getitem(obj, argument), argument)

    def _known(self, value: Any, name: object) -> Any:
        return Null(f"{name!r} is null") if value is None else value


def _checked_output(value: Any) -> Any:
    """Return an output value of a template; TypeError unless it is text, a number, or a list or object of these."""
    if isinstance(value, str | int | float | Undefined):  # undefined values raise by themselves
        return value
    if type(value) not in (list, tuple, dict):
        raise TypeError("it puts out null" if value is None else f"it puts out a {type(value).__name__}, not a text")
    for part in [*value, *value.values()] if isinstance(value, dict) else value:
        _checked_output(part)
    return value


@pass_eval_context
def _joined(context: EvalContext, values: Any, *arguments: Any, **options: Any) -> str:
    """Join like Jinja's `join`, which would output "None" for a null."""
    return sync_do_join(context, [_checked_output(value) for value in values], *arguments, **options)


ENVIRONMENT = Environment(undefined=StrictUndefined, finalize=_checked_output, keep_trailing_newline=True)
ENVIRONMENT.filters["join"] = _joined
ENVIRONMENT.tests["none"] = lambda value: value is None or isinstance(value, Null)
MARK = "{{"


@cache
def _template(text: str) -> Template:
    return ENVIRONMENT.from_string(text)


def problem(text: str) -> str | None:
    """Return why a text is no template, or None."""
    try:
        _template(text)
    except Exception as error:  # compiling folds constants, where any filter may raise anything
        return f"it is no template ({' '.join(str(error).split())})"
    return None


def rendered(text: str, **values: object) -> str:
    """Render a template with these values, and `letters` A to Z; raises Fault if the row lacks a value."""
    try:
        return _template(text).render(letters=ascii_uppercase, **values)
    except Exception as error:  # filters may raise anything
        raise Fault(f"the template {text!r:.60} cannot be filled in ({' '.join(str(error).split())})") from error


def of_row(named: str, row: Mapping[str, object]) -> object:
    """Return the value of a column, or of a template over the row; raises Fault if there is no such column."""
    if MARK in named:
        return rendered(named, row=row)
    if named not in row:
        raise Fault(f"has no {named!r}, it has {', '.join(map(str, row)) or 'nothing'}")
    return row[named]
