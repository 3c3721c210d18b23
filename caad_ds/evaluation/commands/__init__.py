"""The command line of evaluation: arguments and checks that need neither PyTorch nor transformers.

`run` of each module imports the module that does the work once its arguments are checked.
"""

import importlib
from types import ModuleType

from caad_ds.utils.command import note
from caad_ds.utils.launch import is_main


def implementation(name: str) -> ModuleType:
    """Import `caad_ds.evaluation.<name>`, which takes seconds, after a note on stderr."""
    if is_main():
        note("loading PyTorch and transformers")
    return importlib.import_module(f"caad_ds.evaluation.{name}")
