"""The modules of a model that brings its own code: those that an `auto_map` names, and what they import of theirs."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json

MAPS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def own_code(folder: Path) -> set[str]:
    """The names of the modules in a model folder that transformers would load.

    UserError where one that is named is not there, or is no Python.
    """
    waiting = [module for name in MAPS for module in _named(folder / name)]
    found: set[str] = set()
    while waiting:
        name = f"{waiting.pop()}.py"
        if name in found:
            continue
        found.add(name)
        try:
            tree = ast.parse((folder / name).read_bytes())
        except OSError:
            raise UserError(f"{folder / name}: an auto_map or a module of the model needs it; copy it") from None
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{folder / name}: no Python code ({error}); correct it") from error
        waiting += [module for node in ast.walk(tree) for module in _imported(node, folder)]
    return found


def _named(config: Path) -> Iterator[str]:
    """The modules in the `auto_map` of a config; one of another repository (`REPO--module.Class`) is not here."""
    classes: Any = read_json(config, "copy the model again").get("auto_map") if config.is_file() else None
    for each in classes.values() if isinstance(classes, dict) else classes or []:
        for name in each if isinstance(each, list) else [each]:
            if isinstance(name, str) and "--" not in name and "." in name:
                yield name.split(".")[0]


def _imported(node: ast.AST, folder: Path) -> Iterator[str]:
    """The modules that an import takes of its own folder."""
    if isinstance(node, ast.ImportFrom) and node.level == 1:
        if node.module:
            yield node.module.split(".")[0]
        else:
            yield from (alias.name for alias in node.names if (folder / f"{alias.name}.py").exists())
