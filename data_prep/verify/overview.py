"""Overview page of shards: self-contained HTML whose size does not grow with the corpus."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from caad_ds.utils.files import write_atomic
from data_prep.verify.contents import Tally, Value, shown
from data_prep.verify.findings import Findings

TEMPLATE = "overview.html"
BARS = 8  # bars of a panel, besides "others"
PANELS = 24
FAULTS = 10
TEXT = 300  # shown characters of a fault
BINS = 30
COLOUR = "#0072B2"
ANSWERS = {
    "source": "by source",
    "kind": "by kind of instruction",
    "condition": "by condition of the hint",
    "attribute": "by attribute asked about",
}


@dataclass(frozen=True)
class Bar:
    """A bar of a panel: `share` of the total in percent, `width` in percent of the longest bar."""

    label: str
    count: int
    share: float
    width: float


@dataclass(frozen=True)
class Panel:
    """Counts under a title."""

    title: str
    bars: list[Bar]


@dataclass(frozen=True)
class Picture:
    """A histogram: its data URI, and its content as text."""

    title: str
    source: str
    text: str


def write_overview(path: Path, found: Findings) -> None:
    """Write the page with the findings of `prep verify`; UserError if the disk is full."""
    write_atomic(path, page(found).encode())


def page(found: Findings) -> str:
    """Render the page's HTML, without scripts or external resources."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    contents, held_out = found.contents, found.held_out.sizes
    attributes = [panel(name, tally) for name, tally in contents.attributes.items()]
    answers = [panel(title, contents.answers[name]) for name, title in ANSWERS.items() if name in contents.answers]
    most = [(shown(found.index.locate(number)[1].key), count) for number, count in found.duplicates.most]
    return environment.get_template(TEMPLATE).render(
        name=shown(found.index.folder.resolve().name),
        facts=_facts(found),
        faults=[shown(fault, TEXT) for fault in found.faults[:FAULTS]],
        fault_count=len(found.faults),
        pictures=_pictures(found),
        answers=answers,
        attributes=attributes[:PANELS],
        attributes_left=max(0, len(attributes) - PANELS),
        uncounted=contents.uncounted,
        reasons=panel("Rejected, by reason", found.reasons) if found.reasons.total else None,
        rejected=found.index.file.rejected,
        held_out=[(shown(path), count) for path, count in list(held_out.items())[:BARS]],
        held_out_left=max(0, len(held_out) - BARS),
        duplicates=found.duplicates,
        most=most,
    )


def panel(title: str, tally: Tally) -> Panel:
    """Make a panel of the most frequent values; of ranges, if there are many different numbers."""
    numbers = [value for value in tally.counts if isinstance(value, float)]
    if len(numbers) == len(tally.counts) > BARS:
        bars, left = _ranges(numbers, tally), 0
    else:
        few = len(numbers) == len(tally.counts)  # few numbers, such as speaker counts: in ascending order
        common = sorted(tally.counts.items(), key=lambda item: item[0] if few else (-item[1], str(item[0])))
        bars, left = [(_label(value), count) for value, count in common[:BARS]], len(common) - BARS
    others = tally.total - sum(count for _, count in bars)
    if others:
        bars.append((f"others ({left:,}{' and more' * (tally.others > 0)})" if left > 0 else "others", others))
    longest = max((count for _, count in bars), default=1)
    lines = [Bar(label, count, 100 * count / tally.total, 100 * count / longest) for label, count in bars]
    return Panel(title, lines)


def histogram(title: str, unit: str, values: np.ndarray) -> Picture:
    """Draw a histogram as SVG, with its statistics as text; a long tail is cut off."""
    whole = np.issubdtype(values.dtype, np.integer)
    bins = _whole_bins(values) if whole else _bins(values)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "caad-ds", "font.size": 9}):
        figure = Figure(figsize=(4.4, 2.5), layout="constrained")
        axis = figure.subplots()
        axis.hist(values, bins=list(bins), color=COLOUR, edgecolor="white", linewidth=0.4)
        axis.set_xlabel(unit)
        axis.set_ylabel("samples")
        axis.spines[["top", "right"]].set_visible(False)
        axis.yaxis.grid(True, color="0.9")
        axis.set_axisbelow(True)
        axis.xaxis.set_major_locator(MaxNLocator(7, integer=whole))
        axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        image = io.BytesIO()
        figure.savefig(image, format="svg", metadata={"Date": None, "Creator": None})
    text = _figures(values, ",.0f" if whole else ",.2f")
    if beyond := int((values > bins[-1]).sum()):
        text += f"; {beyond:,} beyond the right edge"
    return Picture(title, "data:image/svg+xml;base64," + base64.b64encode(image.getvalue()).decode(), text)


def _bins(values: np.ndarray) -> np.ndarray:
    low = float(values.min())
    return np.linspace(low, max(_edge(values), low + 0.1), BINS + 1)


def _whole_bins(values: np.ndarray) -> np.ndarray:
    """Return bins centred on whole numbers, of equal width; at least ten, so that few values give narrow bars."""
    low, high = int(values.min()), int(_edge(values))
    step = max(1, -(-(high - low + 1) // BINS))
    return np.arange(low, max(high, low + 9) + step + 1, step) - 0.5


def _edge(values: np.ndarray) -> float:
    """Return the right edge of the plot: the largest value, unless there are outliers."""
    top, most = float(values.max()), 1.1 * float(np.percentile(values, 99))
    return most if top > 2 * most else top


def _figures(values: np.ndarray, form: str) -> str:
    mean = f"{values.mean():,.2f}" if form == ",.2f" else f"{values.mean():,.1f}"
    median, p95 = np.percentile(values, [50, 95])
    return (
        f"min {values.min():{form}}, median {median:{form}}, mean {mean}, p95 {p95:{form}}, max {values.max():{form}}"
    )


def _pictures(found: Findings) -> list[Picture]:
    samples = found.index.samples
    shown_values = [
        ("Duration", "seconds", np.array([entry.seconds for entry in samples])),
        ("Answer length", "words", np.frombuffer(found.contents.words, dtype=np.uint64).astype(np.int64)),
        ("Text per sample", "tokens, estimated at four bytes each", np.array([entry.tokens for entry in samples])),
    ]
    return [histogram(*values) for values in shown_values if len(values[2])]


def _facts(found: Findings) -> list[tuple[str, str]]:
    index = found.index
    shards = index.file.shards
    return [
        ("samples", f"{len(index):,}"),
        ("hours of audio", f"{sum(shard.seconds for shard in shards) / 3600:,.2f}"),
        ("different audios", f"{found.duplicates.audios:,}"),
        ("shards", f"{len(shards):,}"),
        ("size", f"{sum(shard.bytes for shard in shards) / 1e6:,.1f} MB"),
        ("rejected", f"{index.file.rejected:,}"),
    ]


def _ranges(numbers: list[float], tally: Tally) -> list[tuple[str, int]]:
    counts, edges = np.histogram(numbers, bins=BARS, weights=[tally.counts[value] for value in numbers])
    return [
        (f"{_label(float(low))} to {_label(float(high))}", int(count))
        for low, high, count in zip(edges, edges[1:], counts)
    ]


def _label(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
