"""Plot shift against neutral accuracy: a point per system, small ones per seed."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from caad_ds.evaluation.tables_and_plots.comparison_plots import NAME, PALETTE, TITLE
from caad_ds.evaluation.tables_and_plots.matplotlib_figures import save, width, wrapped

X, Y = "accuracy_neutral", "shift"
MARKS = "osD^vPX*"
PLOT = 6.0, 4.0  # inches; taller if there are many names
LINE = 0.18  # inches
LONGEST = 2.6  # inches of a name's line
INK = "0.15"
TO_ITS_NAME = {"arrowstyle": "-", "color": "0.7", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 5, "relpos": (0, 0.5)}


@matplotlib.rc_context({"text.parse_math": False})  # names may contain dollar signs, which would be parsed as math
def trade_off(
    systems: dict[str, dict[str, dict]], seeds: dict[str, dict[str, list[float | None]]], title: str, path: Path
) -> None:
    """Plot shift against neutral accuracy, with 95% intervals over items on both axes, as a PNG.

    Args:
        systems: by name, `{value, low, high}` of X and Y; systems with undefined shift have no point.
        seeds: by name, the values of each run; drawn if there are several.
        title: title of the picture.
        path: file to write.
    """
    known = {name: figures for name, figures in systems.items() if figures[Y]["value"] is not None}
    names = {name: wrapped(name, LONGEST, NAME) for name in known}
    beside = max((width(line, NAME) for lines in names.values() for line in lines), default=0.0)
    head = wrapped(f"{title}: shift (right answers lost to a false hint) against neutral accuracy", PLOT[0], TITLE)
    foot = _foot([name for name in systems if name not in known], any(len(values[X]) > 1 for values in seeds.values()))
    tall = max(PLOT[1], sum(LINE * len(lines) + 0.04 for lines in names.values()))
    left, below, above = 0.75, 0.6 + LINE * len(foot), 0.2 + 0.2 * len(head)
    across, high = left + PLOT[0] + 0.5 + beside, below + tall + above
    figure = Figure(figsize=(across, high))
    axis = figure.add_axes((left / across, below / high, PLOT[0] / across, tall / high))
    for k, (name, figures) in enumerate(known.items()):
        _draw(axis, figures, seeds[name], PALETTE[k % len(PALETTE)], MARKS[k // len(PALETTE) % len(MARKS)])
    axis.margins(0.06)
    _name(axis, {name: (100 * f[X]["value"], 100 * f[Y]["value"]) for name, f in known.items()}, names, tall)
    _keep_to_percentages(axis)
    axis.set_xlabel("accuracy without a hint, %")
    axis.set_ylabel("shift, % (lower is better)")
    axis.grid(True, color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    figure.text(0.1 / across, 1 - 0.08 / high, "\n".join(head), ha="left", va="top", fontsize=TITLE)
    figure.text(0.1 / across, 0.06 / high, "\n".join(foot), ha="left", va="bottom", fontsize=8, color="0.35")
    save(figure, path)


def spread(wanted: Sequence[float], heights: Sequence[float], room: float) -> list[float]:
    """Return the centres of non-overlapping boxes in 0 .. room, near the wanted ones; the boxes must fit."""
    order = sorted(range(len(wanted)), key=lambda k: (wanted[k], k))
    low = [0.0] * len(wanted)
    end = 0.0
    for k in order:
        low[k] = max(end, wanted[k] - heights[k] / 2)
        end = low[k] + heights[k]
    end = room
    for k in reversed(order):
        low[k] = min(low[k], end - heights[k])
        end = low[k]
    return [start + height / 2 for start, height in zip(low, heights, strict=True)]


def _draw(axis: Axes, figures: dict[str, dict], runs: dict[str, list[float | None]], colour: str, mark: str) -> None:
    (x, horizontal), (y, vertical) = (_with_reach(figures[key]) for key in (X, Y))
    axis.errorbar(
        [x], [y], xerr=horizontal, yerr=vertical, fmt=mark, color=colour, markersize=8, markeredgecolor="white",
        elinewidth=1.1, capsize=2, zorder=3,
    )  # fmt: skip
    points = [(a, b) for a, b in zip(runs[X], runs[Y], strict=True) if a is not None and b is not None]
    if len(runs[X]) > 1 and points:
        xs, ys = zip(*((100 * a, 100 * b) for a, b in points), strict=True)
        axis.plot(xs, ys, mark, color=colour, markersize=4, alpha=0.75, zorder=2, linestyle="none")


def _with_reach(figure: dict) -> tuple[float, list[list[float]] | None]:
    """Return a metric in percent, and the reach of its interval below and above it; None if there is no interval."""
    value = 100 * figure["value"]
    if figure["low"] is None:
        return value, None
    return value, [[max(0.0, value - 100 * figure["low"])], [max(0.0, 100 * figure["high"] - value)]]


def _name(axis: Axes, points: dict[str, tuple[float, float]], names: dict[str, list[str]], tall: float) -> None:
    """Write the names beside the plot, near the height of their points, with a line to each point."""
    low, high = axis.get_ylim()
    wanted = [tall * (y - low) / (high - low) for _, y in points.values()]
    centres = spread(wanted, [LINE * len(lines) + 0.04 for lines in names.values()], tall)
    edge = axis.get_xlim()[1]
    outside = blended_transform_factory(axis.transAxes, axis.transAxes)
    for (name, (x, y)), centre in zip(points.items(), centres, strict=True):
        axis.annotate(
            "\n".join(names[name]), (x, y), (1 + 0.25 / PLOT[0], centre / tall), textcoords=outside,
            va="center", ha="left", fontsize=NAME, color=INK, annotation_clip=False, zorder=1, arrowprops=TO_ITS_NAME,
        )  # fmt: skip
    axis.set_ylim(low, high)
    axis.set_xlim(right=edge)


def _keep_to_percentages(axis: Axes) -> None:
    """Leave only ticks between 0 and 100: the margins of the plot go beyond, shares do not."""
    for line in (axis.xaxis, axis.yaxis):
        low, high = line.get_view_interval()
        line.set_ticks([tick for tick in line.get_ticklocs() if max(0, low) <= tick <= min(100, high)])


def _foot(undefined: list[str], several: bool) -> list[str]:
    note = "Lines: 95% intervals over items." + (" Small marks: the runs (seeds) of a system." if several else "")
    lines = wrapped(note, PLOT[0], 8)
    if undefined:
        lines += wrapped(
            f"Without a point, since no answer without a hint is right: {', '.join(undefined)}", PLOT[0], 8
        )
    return lines
