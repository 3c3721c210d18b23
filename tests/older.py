"""Run the tests of `faults.md` on an older commit, and show what that commit says to each.

    python -m tests.older 9ef2a8c [TEST ...]

The package is the older commit's, the tests are today's. A test that calls a name that did not exist yet fails with
`Absent`; a test that fails with anything else fails because of what the older package does.
"""

import importlib
import importlib.abc
import importlib.machinery
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("caad_ds", "data_prep", "benchmarks", "examples")
MOVED = {"caad_ds.models.llm.load_tokenizer": "caad_ds.models.speech_lm"}  # the same function in another module
IN_OLDER = "CAAD_DS_OLDER"  # set in the process that runs the tests


class Absent(Exception):
    """A test called what the older commit lacks."""


class Placeholder(str):
    """A name of today that the older commit lacks: to import it or write it to a file is no error, to call it is."""

    def __call__(self, *_: Any, **__: Any) -> "Placeholder":
        if "PYTEST_CURRENT_TEST" in os.environ:
            raise Absent(str(self))
        return self

    def __getattr__(self, name: str) -> "Placeholder":
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder(f"{self}.{name}")()

    def __iter__(self) -> Iterator[Any]:
        self()
        return iter(())


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives modules of the packages a placeholder for every name that they lack, and makes empty ones of the others."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in PACKAGES:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        if found is None or found.loader is None:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        run = found.loader.exec_module

        def completed(module: ModuleType) -> None:
            run(module)
            self.exec_module(module)

        found.loader.exec_module = completed  # type: ignore[method-assign]
        return found

    def exec_module(self, module: ModuleType) -> None:
        def lacking(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            full = f"{module.__name__}.{name}"
            if full in MOVED:
                return getattr(importlib.import_module(MOVED[full]), name)
            places = [Path(path, name) for path in getattr(module, "__path__", ())]
            if any(place.is_dir() or place.with_suffix(".py").exists() for place in places):
                return importlib.import_module(full)
            return Placeholder(full)

        module.__dict__.setdefault("__getattr__", lacking)


def main(commit: str, *tests: str) -> int:
    """Run tests, by default those that `faults.md` names, on a commit; pytest's exit status."""
    named = re.findall(r"`([\w/]+\.py::[^`]+)`", (ROOT / "tests/faults.md").read_text(encoding="utf-8"))
    ids = tests or tuple(f"tests/{name}" for name in named)
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(folder, filter="data")
        shutil.rmtree(Path(folder, "tests"))
        shutil.copytree(ROOT / "tests", Path(folder, "tests"), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        env = os.environ | {"PYTHONPATH": folder, "COLUMNS": "240", IN_OLDER: "1"}
        options = ("-p", "tests.older", "-p", "no:cacheprovider", "--tb=line", "-rfE", "-m", "not pretrained")
        command = [sys.executable, "-m", "pytest", *options, *ids]
        return subprocess.run(command, cwd=folder, env=env, check=False).returncode


if IN_OLDER in os.environ:
    sys.meta_path.insert(0, Finder())

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
