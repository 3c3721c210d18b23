"""The names of `caad_ds`: light to import, there when they are used, documented, and known to type checkers."""

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module

import pytest

import caad_ds
from tests.root import ROOT

HEAVY = {"torch", "transformers", "deepspeed", "mlflow", "numpy"}
PAGE = re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text(), re.M)


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, caad_ds; caad_ds.UserError, caad_ds.Config, caad_ds.load_config, dir(caad_ds); print(*sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "caad_ds.config.schema" in ended.stdout.split() and not HEAVY & set(ended.stdout.split())


@pytest.mark.parametrize("name", caad_ds.__all__)
def test_a_name_is_there_with_a_docstring_and_on_the_page(name):
    value = getattr(caad_ds, name)
    assert inspect.getdoc(value) and name in dir(caad_ds)
    assert any(_object(path) is value for path in PAGE), f"docs/api.md has no `::: ...{name}`"


def _object(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "caad_ds/__init__.py").read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
    seen = {alias.asname: f"{line.module}.{alias.name}" for line in imports for alias in line.names}
    assert seen == {name: f"{module}.{name}" for name, module in caad_ds._MODULES.items()}


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="module 'caad_ds' has no attribute 'distil'"):
        caad_ds.distil  # noqa: B018
