"""Code of a user's own, found by its dotted name."""

import pkgutil
from typing import Any


def load_plugin(name: str) -> Any:
    """Import `package.module`, or what `package.module:name` names.

    Raises:
        ImportError: in one line, whatever kept it from being imported.
    """
    try:
        return pkgutil.resolve_name(name)
    except Exception as error:  # whatever a module of somebody else may raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        missing = isinstance(error, ModuleNotFoundError) and name.startswith(error.name or "")
        hint = "; add the folder that it lies in to PYTHONPATH" if missing else ""
        raise ImportError(f"it cannot be imported ({reason}){hint}") from error
