"""Templates of descriptions: Jinja in its sandbox, which reads a row and can do nothing else.

Published prompts enumerate choices, which `str.format` cannot; public runners write them in Jinja too.
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
    """A null of a row: false in a condition, and else refused as what is missing; not the word "None"."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # there it raises
        """No."""
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        """Equal to nothing but null."""
        return other is None or isinstance(other, Null)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        """The opposite."""
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        """That of None."""
        return hash(None)


class Environment(ImmutableSandboxedEnvironment):
    """Reads the keys of a row before the methods of a `dict`: `row.items` is a column that is called so."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """See Jinja."""
        held = isinstance(obj, Mapping) and attribute in obj
        return self._known(obj[attribute] if held else super().getattr(obj, attribute), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """See Jinja."""
        return self._known(super().getitem(obj, argument), argument)

    def _known(self, value: Any, name: object) -> Any:
        return Null(f"{name!r} is null") if value is None else value


def _shown(value: Any) -> Any:
    """What a template puts out; TypeError for what is no text, number, list or object of these, as methods are."""
    if isinstance(value, str | int | float | Undefined):  # what is undefined says so itself
        return value
    if type(value) not in (list, tuple, dict):
        raise TypeError("it puts out null" if value is None else f"it puts out a {type(value).__name__}, not a text")
    for each in [*value, *value.values()] if isinstance(value, dict) else value:
        _shown(each)
    return value


@pass_eval_context
def _joined(context: EvalContext, values: Any, *arguments: Any, **options: Any) -> str:
    """Jinja's `join`, which would put out "None" for a null."""
    return sync_do_join(context, [_shown(each) for each in values], *arguments, **options)


ENVIRONMENT = Environment(undefined=StrictUndefined, finalize=_shown, keep_trailing_newline=True)
ENVIRONMENT.filters["join"] = _joined
ENVIRONMENT.tests["none"] = lambda value: value is None or isinstance(value, Null)
MARK = "{{"


@cache
def _template(text: str) -> Template:
    return ENVIRONMENT.from_string(text)


def problem(text: str) -> str | None:
    """Why a text is no template, or None."""
    try:
        _template(text)
    except Exception as error:  # compiling folds constants, which any filter may fail at
        return f"it is no template ({' '.join(str(error).split())})"
    return None


def rendered(text: str, **values: object) -> str:
    """A template with these values, and `letters` A to Z; Fault where the row has not what it asks for."""
    try:
        return _template(text).render(letters=ascii_uppercase, **values)
    except Exception as error:  # filters raise whatever the values make them
        raise Fault(f"the template {text!r:.60} cannot be filled in ({' '.join(str(error).split())})") from error


def of_row(named: str, row: Mapping[str, object]) -> object:
    """The value of a column, or of a template over the row; Fault where there is no such column."""
    if MARK in named:
        return rendered(named, row=row)
    if named not in row:
        raise Fault(f"has no {named!r}, it has {', '.join(map(str, row)) or 'nothing'}")
    return row[named]
