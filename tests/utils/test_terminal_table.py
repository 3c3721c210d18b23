"""Tables on a narrow terminal: no line is longer than it, and no figure is cut."""

import io
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.result_kinds.dynamic_superb import Instances, score_instances
from caad_ds.evaluation.scoring.bootstrap_scores import score_groups
from caad_ds.evaluation.scoring.significance import differences
from caad_ds.evaluation.speed.speed_tables import size_rows, speed_rows
from caad_ds.evaluation.tables_and_plots.comparison_tables import comparison_rows, difference_rows, interval_rows
from caad_ds.evaluation.tables_and_plots.tables import scores_rows, show
from caad_ds.utils.terminal_table import Table

NAMES = ("teacher", "a_student_with_a_name_as_long_as_a_path", "another student + CD 1.5 zero_mel, seed 1")
SUBSETS = ("gender", "speaking_rate", "noise", "accent_of_the_speaker")


def predictions(shift: int) -> list[dict]:
    """Answers of which some are right, other ones with another `shift`."""
    return [
        {"id": f"{subset}/{k}", "condition": condition, "subset": subset, "gt": "x", "prediction": "y",
         **{rule: bool((k * 7 + n * shift) % 3) for rule in ("right", "strict", "lenient")}}
        for subset in SUBSETS for k in range(12) for n, condition in enumerate(CONDITIONS)
    ]  # fmt: skip


def speed(median: float) -> dict:
    figure = {"median": median, "low": 0.9 * median, "high": 1.1 * median}
    run = {"batches": 3, **dict.fromkeys(("tokens_per_second", "first_token_ms", "encoder_ms"), figure)}
    where = {"device": "AMD EPYC 7763 64-Core Processor, a CPU", "threads": 16, "dtype": "bfloat16"}
    sizes = {"parameters": {"total": 8.03e9}, "memory_mib": {"weights": 15320.0, "working": 1204.0}}
    return {**sizes, "runs": [{**run, "batch_size": size} for size in (1, 8)], **where}


def kinds() -> dict[str, tuple[list[str], list[list[str]]]]:
    """Header and rows of every kind of table that commands print."""
    runs = {name: [predictions(k + 1), predictions(k + 2)] for k, name in enumerate(NAMES)}
    systems = {name: score_groups(each, draws=20) for name, each in runs.items()}
    found = differences(runs, NAMES[0], draws=20)
    superb = [{**p, "condition": None, "subset": f"SpeakerVerification_{p['subset']}"} for p in predictions(1)[::4]]
    figures = {name: {"MRS": groups["all"]["mrs"]} for name, groups in systems.items()}
    checked = ["z_c zero_mel 1.5", *["75.3"] * 6, "0.41", *["100/100/54/98"] * 4]
    return {
        "evaluate": scores_rows(systems[NAMES[1]]),
        "Dynamic-SUPERB": Instances().rows(score_instances([superb])),
        "compare": comparison_rows(systems, found),
        "differences": difference_rows({name: {"MRS": each["all"]["mrs"]} for name, each in found.items()}),
        "intervals": interval_rows(figures),
        "check-teacher": (
            ["signal", *CONDITIONS, "shift", "tir_all", "entropy", *(f"{name} n/f/a/i" for name in SUBSETS)],
            [checked] * 9,
        ),
        "speed": speed_rows({name: speed(1234.5 * (k + 1)) for k, name in enumerate(NAMES)}),
        "size": size_rows({name: speed(1.0) for name in NAMES}),
    }


def printed(table: Table, width: int) -> list[str]:
    """The lines of a table on a terminal of this width."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for part in table.fitted(width):
        console.print(part)
    return console.file.getvalue().splitlines()


def figures_of(texts: Sequence[str]) -> list[str]:
    """The texts that hold a number and are no names, sorted."""
    return sorted(text for text in texts if re.fullmatch(r"[-+±\[\]<>*/.,\d ]*\d[-+±\[\]<>*/.,\d ]*", text))


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("kind", kinds())
def test_no_figure_is_folded(kind, width):
    header, rows = kinds()[kind]
    lines = printed(Table(f"The table of {kind} with a long title", header, rows), width)
    assert all(len(line) <= width for line in lines)
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    shown = {cell for line in cells for cell in line}
    given = figures_of([cell for row in rows for cell in row])
    assert given and set(given) <= shown


@pytest.mark.parametrize(("columns", "longest"), [("60", 60), ("", 240)])
def test_a_pipe_is_as_wide_as_columns_says(columns, longest, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    show("word " * 100)
    assert max(map(len, capsys.readouterr().out.splitlines())) == pytest.approx(longest, abs=5)


def test_a_table_that_fits_is_printed_as_it_is():
    [table] = Table("t", ["name", "a", "b"], [["x", "1", "2"]]).fitted(80)
    assert [column.header for column in table.columns] == ["name", "a", "b"]


@given(st.lists(st.lists(st.from_regex(r"\A[0-9]{1,8}\.[0-9]\Z"), min_size=4, max_size=4), min_size=1, max_size=6))
def test_all_numbers_of_any_table_are_there_once(numbers):
    rows = [[f"a-system-with-a-rather-long-name-{k}", *row * 4] for k, row in enumerate(numbers)]
    header = ["system", *(f"figure {k}" for k in range(16))]
    words = " ".join(printed(Table("t", header, rows), 60)).split()
    assert sorted(word for word in words if "." in word) == sorted(cell for row in rows for cell in row[1:])
