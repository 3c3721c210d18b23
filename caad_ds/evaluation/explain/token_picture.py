"""Draw one answer: at each position the likeliest tokens with audio, without it, and in the target."""

from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from caad_ds.evaluation.tables_and_plots.comparison_plots import PALETTE
from caad_ds.evaluation.tables_and_plots.matplotlib_figures import drawable, save, wrapped
from caad_ds.generation.decoding_settings import GATE_M, NO_GATE, gate_name
from caad_ds.utils.model_names import run_name

ACROSS = 4
A_PAGE = 20
LONGEST = 14
SMALLEST = 0.005
VISIBLE = {" ": "\N{OPEN BOX}", "\n": "\N{RETURN SYMBOL}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}
INCHES = {"panel": 3.0, "bar": 0.1, "around": 0.55, "line": 0.17}
HEAD = 9.5  # points
WHOSE = {"own": "own, greedy", "contrast": "own, contrastive decoding", "gt": "right answer, forced"}
LINE = INCHES["panel"] * ACROSS - 0.3


def draw(explained: dict, stem: Path) -> list[Path]:
    """Draw an item's explanation as `<stem>.png`; long answers continue in `<stem>.2.png`, ...

    Returns the files. Leftover pages of an earlier, longer answer are deleted.
    """
    positions = explained["positions"]
    pages = [positions[start : start + A_PAGE] for start in range(0, len(positions), A_PAGE)]
    paths = []
    # Text may contain dollar signs, which Matplotlib would parse as math.
    with matplotlib.rc_context({"text.parse_math": False}):
        for number, page in enumerate(pages):
            path = _page(stem, number)
            save(_figure(explained, page, number * A_PAGE), path)
            paths.append(path)
    for left in takewhile(Path.exists, (_page(stem, number) for number in count(len(pages)))):
        left.unlink()
    return paths


def _page(stem: Path, number: int) -> Path:
    return stem.with_name(f"{stem.name}{f'.{number + 1}' if number else ''}.png")


def _figure(explained: dict, page: Sequence[dict], first: int) -> Figure:
    signals, head = explained["signals"], _head(explained)
    shown = [visible_tokens(position, signals) for position in page]
    across = min(ACROSS, max(2, len(page)))
    most = [max(map(len, shown[start : start + across])) for start in range(0, len(page), across)]
    heights = [rows * (len(signals) + 1) * INCHES["bar"] + INCHES["around"] for rows in most]
    figure = Figure(
        figsize=(INCHES["panel"] * ACROSS, sum(heights) + (len(head) + 3) * INCHES["line"]), layout="constrained"
    )
    figure.suptitle("\n".join(head), x=0.01, ha="left", fontsize=HEAD)
    colours = dict(zip(signals, PALETTE, strict=False))
    axes = figure.subplots(len(most), across, squeeze=False, height_ratios=heights).flatten()
    for k, position in enumerate(page):
        _panel(axes[k], position, shown[k], colours, most[k // across])
        axes[k].set_title(f"{first + k + 1}  {visible(position['text'])}", fontsize=9.5, fontweight="bold", loc="left")
    for axis in axes[len(page) :]:
        axis.set_visible(False)
    names = signal_names(explained["setting"])
    handles = [Patch(color=colour, label=names[signal]) for signal, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9.5)
    return figure


def visible_tokens(position: dict, signals: Sequence[str]) -> list[dict]:
    """Return the tokens of a position with visible bars, and the answer's own."""
    tokens = position["tokens"]
    return [t for t in tokens if t["id"] == position["id"] or max(t[signal] for signal in signals) >= SMALLEST]


def _panel(axis: Axes, position: dict, tokens: list[dict], colours: dict[str, str], most: int) -> None:
    """Draw bars for `tokens`, with room for `most`, so that the panels of a row have the same scale."""
    step = len(colours) + 1
    for k, (signal, colour) in enumerate(colours.items()):
        bars = axis.barh(
            [row * step + k for row in range(len(tokens))], [t[signal] for t in tokens], 0.92, color=colour
        )
        axis.bar_label(bars, [f"{t[signal]:.2f}" for t in tokens], padding=2, fontsize=6)
    axis.set_yticks([row * step + (len(colours) - 1) / 2 for row in range(len(tokens))])
    labels = axis.set_yticklabels([visible(token["text"]) for token in tokens], fontsize=8.5)
    for label, token in zip(labels, tokens, strict=True):
        label.set_fontweight("bold" if token["id"] == position["id"] else "normal")
    axis.set_ylim(most * step - 0.5, -1)  # the first on top
    axis.set_xlim(0, 1.12)
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7.5)
    axis.tick_params(length=0)
    axis.xaxis.grid(True, color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def _head(explained: dict) -> list[str]:
    models = run_name(Path(explained["model"]))
    if explained["teacher"]:
        models = f"student {models}, teacher {run_name(Path(explained['teacher']))}"
    item = ", ".join(filter(None, (explained["id"], explained["condition"])))
    lines = [
        f"{item}: {explained['question']} (right: {explained['gt']}); {models}",
        f"Hint: {explained['hint'] or 'none'}",
        f"Answer ({WHOSE[explained['setting']['answer']]}): {explained['answer']}",
    ]
    return [part for line in lines for part in wrapped(line, LINE, HEAD)]


def signal_names(setting: dict) -> dict[str, str]:
    """Return the name of each signal in legends, with the settings that determine it."""
    gate = gate_name(setting.get("alpha_gate", NO_GATE), setting.get("gate_m", GATE_M))
    beta = "" if setting["plausibility"] is None else f", plausibility {setting['plausibility']:g}"
    tau = "" if setting["temperature"] == 1 else f", all at temperature {setting['temperature']:g}"
    return {
        "p_pos": "p_pos: with audio",
        "p_neg": f"p_neg: without it ({setting['negative']})",
        "target": f"contrastive target, alpha {setting['contrast_alpha']:g}{gate}{beta}{tau}",
        "student": "student",
    }


def visible(text: str) -> str:
    """Return a token's text with visible spaces and line breaks, truncated if long; `\\u4f60` for a missing glyph."""
    text = drawable("".join(VISIBLE.get(letter, letter) for letter in text))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
