"""The pictures of a comparison: nothing is cut off, and no text overprints another."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.axis import Tick
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.scoring.bootstrap_scores import score
from caad_ds.evaluation.tables_and_plots.comparison_plots import bars, flip_matrices
from caad_ds.evaluation.tables_and_plots.trade_off_plot import X, Y, spread, trade_off

MANY = 30  # systems
WIDE = "WHEN AUDIO AND TEXT DISAGREE, " * 4
NAMES = {
    2: ["a$\\frac$b", "b"],
    3: [f"{'W' * 80}{k}" for k in range(3)],
    4: ["teacher", "teacher + CD 1 zero_mel", "student", "student + CD 1 zero_mel"],
    5: ["teacher", "teacher + CD 1 zero_mel", "student of KD", "student + CD 1 zero_mel", "student of CAAD"],
    MANY: [f"system {k}, on-policy 0.5, reverse KL" for k in range(MANY)],
    11: [
        f"a system whose name, number {k}, tells all of its settings: CD 1.5 silence, drawn at 0.7" for k in range(11)
    ],
}


@pytest.fixture
def drawn(monkeypatch):
    """Collect the matplotlib figures that were saved."""
    figures, save = [], Figure.savefig

    def saved(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures


def ink(path):
    """Where a picture is not white, bool [rows, columns]."""
    return imread(path)[..., :3].min(-1) < 0.98


def scattered(names, runs=3):
    """Figures of systems most of which are close together, and those of their runs."""
    rng = np.random.default_rng(0)
    values = {name: {X: 0.7 + 0.02 * rng.random(), Y: 0.3 + 0.02 * rng.random()} for name in names}
    points = {
        name: {key: {"value": value, "low": value - 0.03, "high": value + 0.03} for key, value in figures.items()}
        for name, figures in values.items()
    }
    seeds = {
        name: {key: [value + 0.01 * k for k in range(runs)] for key, value in v.items()} for name, v in values.items()
    }
    return points, seeds


@pytest.mark.parametrize(
    "count", [*(count for count in NAMES if count != MANY), pytest.param(MANY, marks=pytest.mark.slow)]
)
def test_nothing_is_cut_off_in_the_pictures(count, tmp_path):
    metric = {"value": 0.5, "low": 0.4, "high": 0.6}
    bars({name: dict.fromkeys(CONDITIONS, metric) for name in NAMES[count]}, WIDE, tmp_path / "bars.png")
    scores = score(np.ones((1, 4, 2), bool), 2)
    flip_matrices({name: {"all": scores} for name in NAMES[count]}, WIDE, tmp_path / "flips.png")
    points, seeds = scattered(NAMES[count])
    trade_off(points, seeds, WIDE, tmp_path / "trade_off.png")
    for name in ("bars", "flips", "trade_off"):
        found = ink(tmp_path / f"{name}.png")
        assert not found[:, [0, 1, -2, -1]].any() and not found[[0, 1, -2, -1]].any()


def test_an_undefined_figure_has_no_bar(drawn, tmp_path):
    known, undefined = {"value": 0.5, "low": 0.4, "high": 0.6}, dict.fromkeys(("value", "low", "high"))
    bars({"a": {"neutral": known, "shift": undefined}}, "T", tmp_path / "bars.png")
    [figure] = drawn
    [neutral], [shift] = (panel.patches for panel in figure.axes)
    assert neutral.get_width() == 50 and np.isnan(shift.get_width()), "0 would be the best shift of all"


@pytest.mark.parametrize("count", [5, 11, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("picture", ["bars", "flips", "trade_off"])
def test_no_text_overprints_another(count, picture, drawn, tmp_path):
    names, path = NAMES[count], tmp_path / "picture.png"
    if picture == "bars":
        whole = {"value": 1.0, "low": 0.9, "high": 1.0}
        bars({name: dict.fromkeys(CONDITIONS, whole) for name in names}, WIDE, path)
    elif picture == "flips":
        flip_matrices({name: {"all": score(np.ones((1, 4, 2), bool), 2)} for name in names}, WIDE, path)
    else:
        points, seeds = scattered(names)
        trade_off(points, seeds, WIDE, path)
    [figure] = drawn
    written = [text for text in texts(figure) if text.get_text().strip()]
    assert {"right", "wrong"} < {text.get_text() for text in written} or picture != "flips"
    assert all(any(" ".join(text.get_text().split()) == name for text in written) or count == 11 for name in names)
    boxes = [Text.get_window_extent(text) for text in written]  # of an annotation without its line
    assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]


def test_a_system_without_a_right_answer_is_named_and_has_no_point(drawn, tmp_path):
    points, seeds = scattered(["a", "b"])
    points["b"][Y] = dict.fromkeys(("value", "low", "high"))
    trade_off(points, seeds, "T", tmp_path / "trade_off.png")
    [figure] = drawn
    said = [text.get_text() for text in texts(figure)]
    assert "a" in said and "b" not in said
    assert any(text.endswith("no answer without a hint is right: b") for text in said)


def test_the_trade_off_has_no_tick_beyond_a_share(drawn, tmp_path):
    """Points at 0 and 100%, around which the plot has margins."""
    points, seeds = scattered(["a", "b"])
    for name, value in (("a", 1.0), ("b", 0.0)):
        points[name] = {key: {"value": value, "low": None, "high": None} for key in (X, Y)}
    trade_off(points, seeds, "T", tmp_path / "trade_off.png")
    [axis] = drawn[0].axes
    for line in (axis.xaxis, axis.yaxis):
        assert min(line.get_ticklocs()) == 0 and max(line.get_ticklocs()) == 100
        assert line.get_view_interval()[0] < 0 and line.get_view_interval()[1] > 100


def test_names_stand_where_they_are_wanted_as_far_as_there_is_room():
    assert spread([1.0, 3.0], [1.0, 1.0], 4.0) == [1.0, 3.0]
    assert spread([3.9, 3.9, 0.0], [1.0, 1.0, 1.0], 4.0) == [2.5, 3.5, 0.5]
    assert spread([1.0, 1.0], [2.0, 2.0], 4.0) == [1.0, 3.0]


def texts(artist):
    """What is written in a figure and can be seen; marks of an axis beyond its ends cannot."""
    if not artist.get_visible():
        return
    if isinstance(artist, Tick):
        low, high = sorted(
            artist.axes.get_xlim() if artist in artist.axes.xaxis.get_major_ticks() else artist.axes.get_ylim()
        )
        if not low <= artist.get_loc() <= high:
            return
    if isinstance(artist, Text) and artist.get_text():
        yield artist
    for child in artist.get_children():
        yield from texts(child)


def overlap(one, other):
    return min(one.x1, other.x1) > max(one.x0, other.x0) and min(one.y1, other.y1) > max(one.y0, other.y0)
