"""Every config of a run that is in `configs/` loads, and one with a base holds only what differs from it."""

import pytest

from caad_ds.config.inheritance import merged, read_files
from caad_ds.config.reading import load_config
from tests.root import CONFIGS

OTHERS = {"instructions.yaml", "splits.yaml", "classes.yaml"}
RUNS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.name not in OTHERS)


def repeated(values: dict, inherited: dict, prefix: str = "") -> list[str]:
    """The keys of a file whose value is the one that it would inherit."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(inherited.get(key), dict):
            found += repeated(value, inherited[key], f"{prefix}{key}.")
        elif key in inherited and inherited[key] == value:
            found.append(prefix + key)
    return found


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_loads_and_repeats_nothing(path):
    assert load_config(path).run.name == path.stem
    (_, own), *bases = read_files(path)
    assert not bases or not repeated(own, merged(bases))
