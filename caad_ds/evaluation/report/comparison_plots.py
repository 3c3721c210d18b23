"""The pictures of a comparison."""

import math
from itertools import product
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from caad_ds.evaluation.report.matplotlib_figures import save, width, wrapped
from caad_ds.evaluation.scoring.scores import POOLED

# Okabe and Ito's palette, told apart with every kind of colour vision; black is left to the error bars.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
PANELS = 4  # matrices side by side
PANEL = 2.3  # inches
TITLE, NAME = 11, 10  # points
LEGEND_INCHES = 6.5


@matplotlib.rc_context({"text.parse_math": False})  # names may hold dollar signs, which would be read as mathematics
def bars(systems: dict[str, dict[str, dict]], title: str, path: Path) -> None:
    """Grouped bars with 95% intervals over items, as a PNG; `systems`: by name, `{value, low, high}` by label."""
    labels = list(next(iter(systems.values())))
    inches = max(8.0, 1.5 + len(labels) * max(0.6, 0.16 * len(systems)))
    legend = _legend(list(systems), inches)
    lines = sum(max(1 + name.count("\n") for name in row) for row in legend)
    figure = Figure(figsize=(inches, 4.4 + 0.2 * lines), layout="constrained")
    axis = figure.subplots()
    thick = 0.84 / len(systems)
    for k, (name, metrics) in enumerate(systems.items()):
        values = [_percent(m["value"]) for m in metrics.values()]
        low = [value - _percent(m["low"]) for value, m in zip(values, metrics.values(), strict=True)]
        high = [_percent(m["high"]) - value for value, m in zip(values, metrics.values(), strict=True)]
        axis.bar(
            [position + (k - (len(systems) - 1) / 2) * thick for position in range(len(labels))],
            values,
            0.92 * thick,
            yerr=[[max(part, 0.0) for part in low], [max(part, 0.0) for part in high]],  # nan, where unknown, stays
            color=PALETTE[k % len(PALETTE)],
            hatch=("", "//", "..", "xx")[k // len(PALETTE) % 4],
            edgecolor="white",
            error_kw={"elinewidth": 0.9, "capsize": 2},
            label=_entry(name),
        )
    axis.set_xticks(range(len(labels)), ["\n".join(wrapped(label, 1.1, NAME)) for label in labels])
    axis.set_ylabel("%")
    axis.set_ylim(0, 105)
    axis.spines[["top", "right"]].set_visible(False)
    axis.yaxis.grid(True, color="0.9")
    axis.set_axisbelow(True)
    axis.set_title("\n".join(wrapped(title, inches - 1, TITLE)), loc="left", fontsize=TITLE)
    figure.legend(loc="outside lower center", ncols=len(legend[0]), frameon=False, fontsize=NAME)
    save(figure, path)


def _legend(names: list[str], inches: float) -> list[list[str]]:
    """The rows of a legend that is no wider than its figure."""
    names = [_entry(name) for name in names]
    widest = max(width(line, NAME) for name in names for line in name.split("\n"))
    columns = max(1, min(PANELS, len(names), int(inches / (0.75 + widest))))
    return [names[start : start + columns] for start in range(0, len(names), columns)]


def _entry(name: str) -> str:
    return "\n".join(wrapped(name, LEGEND_INCHES, NAME))


@matplotlib.rc_context({"text.parse_math": False})
def flip_matrices(systems: dict[str, dict], title: str, path: Path) -> None:
    """What a false hint does to right and wrong answers, a matrix for each system, as a PNG.

    Rows: right or wrong without a hint; columns: with the false one; cells: % of all items, mean over runs.
    """
    columns = min(PANELS, len(systems))
    rows = -(-len(systems) // columns)
    across = 0.8 + PANEL * columns
    names = {name: wrapped(name, PANEL - 0.2, NAME) for name in systems}
    text = wrapped(f"{title}: % of items; outlined: right answers that the false hint turns wrong", across - 0.2, TITLE)
    inches = PANEL + 0.17 * max(map(len, names.values()))
    spaced = ConstrainedLayoutEngine(h_pad=0.09)  # between a row's tick labels and the next one's names
    figure = Figure(figsize=(across, 0.7 + 0.2 * len(text) + inches * rows), layout=spaced)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat[len(systems) :]:
        panel.set_visible(False)
    shares = {name: flips(groups[POOLED]) for name, groups in systems.items()}
    darkest = max(share for matrix in shares.values() for row in matrix for share in row)
    for k, (name, matrix) in enumerate(shares.items()):
        _flip_matrix(panels.flat[k], matrix, darkest)
        panels.flat[k].set_title("\n".join(names[name]), fontsize=NAME)
        panels.flat[k].tick_params(labelleft=k % columns == 0)
    figure.supylabel("without a hint", fontsize=10)
    figure.supxlabel("with the false hint", fontsize=10)
    figure.suptitle("\n".join(text), x=0.01, ha="left", fontsize=TITLE)
    save(figure, path)


def flips(scores: dict) -> list[list[float]]:
    """Shares of all items [neutral right, wrong][adversarial right, wrong], from one group's scores."""
    lost, neutral = scores["tir_all_adversarial"]["value"], scores["accuracy_neutral"]["value"]
    won = scores["accuracy_adversarial"]["value"] - (neutral - lost)
    shares = [[neutral - lost, lost], [won, 1 - neutral - won]]
    return [[max(0.0, share) for share in row] for row in shares]  # a difference of equal shares may be -1e-17


def _flip_matrix(panel: Axes, shares: list[list[float]], darkest: float) -> None:
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=darkest)
    for row, column in product(range(2), range(2)):
        share = shares[row][column]
        colour = "white" if share > 0.6 * darkest else "black"
        panel.text(column, row, f"{100 * share:.1f}", ha="center", va="center", color=colour, fontsize=12)
    panel.axhline(0.5, color="white", linewidth=3)
    panel.axvline(0.5, color="white", linewidth=3)
    panel.add_patch(Rectangle((0.54, -0.46), 0.92, 0.92, fill=False, edgecolor="#D55E00", linewidth=2.5))
    panel.set_xticks([0, 1], ["right", "wrong"])
    panel.set_yticks([0, 1], ["right", "wrong"])
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100 * value  # no bar: at 0 a shift would look like the best one
