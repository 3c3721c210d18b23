"""Files and folders keep a size at which a reader finds a line."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES, MODULES = 400, 13


@pytest.mark.parametrize("package", ["caad_ds", "data_prep", "examples", "benchmarks", "tests"])
def test_no_file_is_longer_than_400_lines(package):
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / package).rglob("*.py")}
    assert lengths and not {str(path): length for path, length in lengths.items() if length > LINES}


def test_no_page_script_or_kernel_is_longer_either():
    kinds = (
        "docs/**/*.md",
        "configs/**/*.md",
        "benchmarks/**/*.md",
        "*.md",
        "slurm/*",
        "caad_ds/**/*.js",
        "caad_ds/**/*.css",
        "caad_ds/**/*.html",
        "caad_ds/**/*.c",
    )
    found = [path for kind in kinds for path in ROOT.glob(kind) if path.name != "CHANGELOG.md"]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in found}
    assert len(lengths) > 20 and not {str(path): length for path, length in lengths.items() if length > LINES}


@pytest.mark.parametrize("package", ["caad_ds/evaluation", "caad_ds/training", "data_prep"])
def test_no_folder_has_more_than_about_12_modules(package):
    folders = [ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())]
    counts = {str(folder): len([path for path in folder.glob("*.py") if path.stem != "__init__"]) for folder in folders}
    assert max(counts.values()) > 1 and not {name: count for name, count in counts.items() if count > MODULES}


def test_two_modules_of_one_name_are_one_idea_in_two_rooms():
    """For example a command and the function that it calls, or a benchmark's results and their comparison."""
    shared = {
        *("check_teacher", "compare", "dynamic_superb", "evaluate", "explain", "group_metrics", "jsonl", "report"),
        "result",
    }
    names = [path.stem for package in ("caad_ds", "data_prep") for path in (ROOT / package).rglob("*.py")]
    twice = {name for name in names if names.count(name) > 1 and not name.startswith("__")}
    assert twice == shared


def test_the_tests_that_faults_md_names_exist():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)", (ROOT / "tests/faults.md").read_text(encoding="utf-8"))
    assert len(named) > 50
    assert not [pair for pair in named if f"def {pair[1]}(" not in (ROOT / "tests" / pair[0]).read_text("utf-8")]
