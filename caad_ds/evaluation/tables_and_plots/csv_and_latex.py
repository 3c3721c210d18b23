"""A comparison's table for other programs: CSV with a line per metric, LaTeX for papers."""

import csv
import io
from collections.abc import Sequence

BOUNDS = ("value", "low", "high")
TESTED = ("p", "p_holm", "significant")
HEADER = ("system", "runs", "figure", *BOUNDS, "deviation", *(f"difference_{name}" for name in BOUNDS), *TESTED)
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$",
    # After a line break of a table both would be parsed as its argument.
    "*": "{*}", "[": "{[}", **{letter: f"\\{letter}" for letter in "{}$&#_%"},
}  # fmt: skip


def csv_table(
    runs: dict[str, int], figures: dict[str, dict[str, dict]], differences: dict[str, dict[str, dict]]
) -> str:
    """Return a CSV line per system and metric: percentages, differences from the baseline in points, raw p.

    Undefined or untested values are empty fields.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEADER)
    for system, found in figures.items():
        for name, figure in found.items():
            difference = differences.get(system, {}).get(name, {})
            measured = [_percentage(figure[key]) for key in (*BOUNDS, "deviation")]
            measured += [_percentage(difference.get(key)) for key in BOUNDS]
            lines.writerow([system, runs[system], name, *measured, *(difference.get(key) for key in TESTED)])
    return text.getvalue()


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a `tabular` with booktabs rules, the first column left-aligned."""
    lines = [" & ".join(map(latex, line)) + r" \\" for line in (header, *rows)]
    columns = "l" + "r" * (len(header) - 1)
    head = ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*head, *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex(text: str) -> str:
    """Escape a text for LaTeX."""
    escaped = "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))
    return escaped.replace("--", "-{}-")  # two hyphens would become a dash


def _percentage(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 6)
