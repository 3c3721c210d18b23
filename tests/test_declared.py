"""What the packages import is declared in setup.py, and not only brought along by something else.

An import at the head of a module must be a requirement of caad-ds itself; one inside a function may be an extra's, and
so may any in a folder that a command imports once it has found the extra's packages.
"""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.root import ROOT

OWN = {"caad_ds", "data_prep", "ds_configs"}
OF_EXTRA = ("caad_ds/serving/server/",)
OPTIONAL = {"triton"}  # a CUDA build of PyTorch brings it; loss/triton_kernel.py is imported where it is there
MODULES = packages_distributions()
# Of extras that are too large to be installed with the tests.
MODULES |= {"vllm": ["vllm"], "funasr": ["funasr"], "pyannote": ["pyannote.audio"]}


def declared(extras: bool) -> set[str]:
    """The distributions that setup.py names, with or without those of extras."""
    every = [Requirement(line) for line in requires("caad-ds") or []]
    return {canonicalize_name(one.name) for one in every if extras or "extra" not in str(one.marker)}


def imported(everywhere: bool) -> Iterator[tuple[str, str]]:
    """Top-level modules of others and a file that imports them: everywhere, or as it is imported itself."""
    for folder in ("caad_ds", "data_prep"):
        for file in (ROOT / folder).rglob("*.py"):
            if not everywhere and file.relative_to(ROOT).as_posix().startswith(OF_EXTRA):
                continue
            tree = ast.parse(file.read_text())
            for node in ast.walk(tree) if everywhere else tree.body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                for name in {name.split(".")[0] for name in names} - OWN - sys.stdlib_module_names:
                    yield name, file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("everywhere", [False, True])
def test_every_import_is_declared(everywhere):
    known = declared(extras=everywhere)
    undeclared = {
        f"{file} imports {module}"
        for module, file in imported(everywhere)
        if module not in OPTIONAL and not {canonicalize_name(name) for name in MODULES.get(module, [module])} & known
    }
    assert not undeclared
