"""Find the modules of a model with custom code: those named by an `auto_map`, and their relative imports."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json

MAPS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def own_code(folder: Path) -> set[str]:
    """Return the file names of the modules in a model folder that transformers would load.

    Raises UserError if one is missing or does not parse.
    """
    pending = [module for name in MAPS for module in _named(folder / name)]
    found: set[str] = set()
    while pending:
        name = f"{pending.pop()}.py"
        if name in found:
            continue
        found.add(name)
        try:
            tree = ast.parse((folder / name).read_bytes())
        except OSError:
            raise UserError(f"{folder / name}: an auto_map or a module of the model needs it; copy it") from None
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{folder / name}: no Python code ({error}); correct it") from error
        pending += [module for node in ast.walk(tree) for module in _imported(node, folder)]
    return found


def _named(config: Path) -> Iterator[str]:
    """Yield the modules in the `auto_map` of a config, except those of other repositories (`REPO--module.Class`)."""
    classes: Any = read_json(config, "copy the model again").get("auto_map") if config.is_file() else None
    for entry in classes.values() if isinstance(classes, dict) else classes or []:
        for name in entry if isinstance(entry, list) else [entry]:
            if isinstance(name, str) and "--" not in name and "." in name:
                yield name.split(".")[0]


def _imported(node: ast.AST, folder: Path) -> Iterator[str]:
    """Yield the modules of the same folder that a relative import names."""
    if isinstance(node, ast.ImportFrom) and node.level == 1:
        if node.module:
            yield node.module.split(".")[0]
        else:
            yield from (alias.name for alias in node.names if (folder / f"{alias.name}.py").exists())
