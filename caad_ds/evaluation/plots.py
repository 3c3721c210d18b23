"""The picture of a comparison."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from caad_ds.evaluation.scores import POOLED
from caad_ds.evaluation.tables import MAIN
from caad_ds.files import write_atomic

# Okabe and Ito's palette, told apart with every kind of colour vision; black is left to the error bars.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
SHOWN = {name: key for name, key in MAIN.items() if name != "tir_adv"}


def bars(systems: dict[str, dict], title: str, path: Path) -> None:
    """Grouped bars per condition and for shift, with 95% intervals over items, as a PNG."""
    figure = Figure(figsize=(max(8.0, 1.5 + 0.95 * len(systems)), 4.8), layout="constrained")
    axis = figure.subplots()
    width = 0.84 / len(systems)
    for k, (name, groups) in enumerate(systems.items()):
        metrics = [groups[POOLED][key] for key in SHOWN.values()]
        values = [_percent(m["value"]) for m in metrics]
        low = [value - _percent(m["low"]) for value, m in zip(values, metrics, strict=True)]
        high = [_percent(m["high"]) - value for value, m in zip(values, metrics, strict=True)]
        axis.bar(
            [position + (k - (len(systems) - 1) / 2) * width for position in range(len(SHOWN))],
            values,
            0.92 * width,
            yerr=[[max(0.0, part) for part in low], [max(0.0, part) for part in high]],
            color=PALETTE[k % len(PALETTE)],
            hatch=("", "//", "..", "xx")[k // len(PALETTE) % 4],
            edgecolor="white",
            error_kw={"elinewidth": 0.9, "capsize": 2},
            label=name,
        )
    axis.set_xticks(range(len(SHOWN)), [*list(SHOWN)[:-1], "shift (lower is better)"])
    axis.set_ylabel("%")
    axis.set_ylim(0, 105)
    axis.spines[["top", "right"]].set_visible(False)
    axis.yaxis.grid(True, color="0.9")
    axis.set_axisbelow(True)
    axis.set_title(title, loc="left")
    figure.legend(loc="outside lower center", ncols=min(4, len(systems)), frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150, metadata={"Software": None})
    write_atomic(path, image.getvalue())


def _percent(value: float | None) -> float:
    return 0.0 if value is None else 100 * value
