"""The pictures of a comparison."""

import math
from itertools import product
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from caad_ds.evaluation.scoring.bootstrap_scores import POOLED
from caad_ds.evaluation.tables_and_plots.matplotlib_figures import save, width, wrapped

# Okabe and Ito's palette, safe for colour-blind readers; black is reserved for error bars.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
PANELS = 4  # matrices side by side
PANEL = 2.3  # inches
TITLE, NAME = 11, 10  # points
ACROSS = 6  # panels of bars side by side
MOST_BARS = 60  # panels; more would be unreadable
PANEL_OF_BARS, BAR, LONGEST_NAME = 1.75, 0.24, 3.0  # inches


@matplotlib.rc_context({"text.parse_math": False})  # names may contain dollar signs, which would be parsed as math
def bars(systems: dict[str, dict[str, dict]], title: str, path: Path) -> None:
    """Draw bars with 95% intervals over items as a PNG: a panel per label, a row per system.

    `systems`: `{value, low, high}` by label, by name in the order of the rows; at most MOST_BARS labels are drawn.
    """
    known = list(next(iter(systems.values())))
    labels = known[:MOST_BARS]
    if len(known) > MOST_BARS:
        title += f" (the first {MOST_BARS} of {len(known)} figures; the others are in the tables)"
    columns = min(ACROSS, len(labels))
    names = [wrapped(name, LONGEST_NAME, NAME) for name in systems]
    heads = [wrapped(label, PANEL_OF_BARS - 0.15, NAME) for label in labels]
    inches = 0.4 + max(width(line, NAME) for lines in names for line in lines) + PANEL_OF_BARS * columns
    above = wrapped(title, inches - 0.3, TITLE)
    lines = sum(BAR if len(name) == 1 else 0.17 * len(name) + 0.07 for name in names)
    rows = -(-len(labels) // columns)
    tall = rows * (0.55 + lines + 0.17 * max(map(len, heads))) + 0.25 * len(above)
    figure = Figure(figsize=(inches, tall), layout=ConstrainedLayoutEngine(wspace=0.02))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    centres = _centres(names)
    for k, panel in enumerate(panels.flat):
        if k < len(labels):
            _panel_of_bars(panel, centres, [metrics[labels[k]] for metrics in systems.values()], PALETTE[k % columns])
            panel.set_title("\n".join(heads[k]), fontsize=NAME, loc="left")
            panel.set_yticks(centres, ["\n".join(name) for name in names])
            panel.set_ylim(lines / BAR - 0.5, -0.5)
        else:
            panel.set_visible(False)
    figure.suptitle("\n".join(above), x=0.01, ha="left", fontsize=TITLE)
    save(figure, path)


def _centres(names: list[list[str]]) -> list[float]:
    """Return the centre of each system's row from the top, in units of a one-line row."""
    centres, end = [], -0.5
    for lines in names:
        height = 1.0 if len(lines) == 1 else (0.17 * len(lines) + 0.07) / BAR
        centres.append(end + height / 2)
        end += height
    return centres


def _panel_of_bars(panel: Axes, centres: list[float], metrics: list[dict], colour: str) -> None:
    values = [_percent(metric["value"]) for metric in metrics]
    ends = [value if metric["high"] is None else 100 * metric["high"] for value, metric in zip(values, metrics)]
    reach = [
        [max(0.0, value - _percent(metric["low"])) for value, metric in zip(values, metrics)],
        [max(0.0, end - value) for value, end in zip(values, ends)],
    ]  # unknown bounds stay nan
    panel.barh(centres, values, 0.68, xerr=reach, color=colour, error_kw={"elinewidth": 0.9, "ecolor": "0.25"})
    for centre, value, end in zip(centres, values, ends, strict=True):
        if not math.isnan(value):
            panel.text(end + 2, centre, f"{value:.1f}", va="center", ha="left", fontsize=8, color="0.25")
    panel.set_xlim(0, 128)  # room for the number after a full bar
    panel.set_xticks([0, 50, 100], ["0", "50", "100%"], fontsize=8)
    panel.xaxis.grid(True, color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.tick_params(length=0)


@matplotlib.rc_context({"text.parse_math": False})
def flip_matrices(systems: dict[str, dict], title: str, path: Path) -> None:
    """Draw the effect of a false hint on right and wrong answers as a PNG, a matrix per system.

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
    """Return shares of all items [neutral right, wrong][adversarial right, wrong] from one group's scores."""
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
    return math.nan if value is None else 100 * value  # no bar: a shift of 0 would look best
