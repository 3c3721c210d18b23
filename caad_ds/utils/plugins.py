"""Load a user's code by its dotted name; its folder must be on PYTHONPATH."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from caad_ds.utils.errors import UserError


def load_plugin(name: str) -> Any:
    """Import `package.module`, or the attribute `package.module:name`.

    Raises:
        ImportError: in one line, for any error on import.
    """
    module, colon, attribute = name.partition(":")
    try:
        imported = import_module(module)
        return getattr(imported, attribute) if colon else imported
    except Exception as error:  # a user's module may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        hint = "; add the folder that it lies in to PYTHONPATH" if absent else ""
        raise ImportError(f"it cannot be imported ({reason}){hint}") from error


def plugin_module(kind: str, name: str, package: str, names: Sequence[str], needed: Sequence[str] = ()) -> ModuleType:
    """Return the module of a plain name, one of `names` in a package, or a user's module of a dotted name.

    UserError, which begins with `kind`, if there is none, or it lacks one of the `needed` attributes.
    """
    if "." not in name:
        if name not in names:
            known = ", ".join(names)
            raise UserError(
                f"{kind} {name!r}: there is none of that name; take one of {known}, or package.module of your own"
            )
        return import_module(f"{package}.{name}")
    try:
        module = load_plugin(name)
    except ImportError as error:
        raise UserError(f"{kind} {name!r}: {error}") from error
    for attribute in needed:
        if not hasattr(module, attribute):
            raise UserError(f"{kind} {name!r}: it has no {attribute}; the head of {package} says what it needs")
    return module
