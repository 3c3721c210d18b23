"""Helpers for Matplotlib figures: fitting text, and saving."""

import io
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from caad_ds.utils.files import write_atomic

POINTS = 72  # per inch
DOTS = 150  # per inch


def save(figure: Figure, path: Path) -> None:
    """Save a figure as PNG, or as SVG by file ending, atomically and reproducibly."""
    figure.dpi = DOTS
    figure.draw_without_rendering()  # the first layout pass does not yet know the positions of titles
    image = io.BytesIO()
    omitted = ("Date", "Creator") if path.suffix == ".svg" else ("Software",)
    with matplotlib.rc_context({"svg.hashsalt": "caad-ds"}):
        figure.savefig(image, format=path.suffix[1:], dpi=DOTS, metadata=dict.fromkeys(omitted))
    write_atomic(path, image.getvalue())


def drawable(text: str) -> str:
    """Return the text with missing glyphs escaped, `\\u4f60`."""
    font = _font()
    return "".join(letter if font.get_char_index(ord(letter)) else ascii(letter)[1:-1] for letter in text)


def width(text: str, size: float) -> float:
    """Return the width in inches of a drawable line at `size` points."""
    font = _font()
    font.set_size(size, POINTS)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / POINTS  # in 64ths of a pixel


def wrapped(text: str, inches: float, size: float) -> list[str]:
    """Wrap a text, made drawable, into lines of at most `inches`; longer words are split."""
    lines: list[str] = []
    line = ""
    for word in drawable(" ".join(text.split())).split():
        if line and width(f"{line} {word}", size) <= inches:
            line = f"{line} {word}"
            continue
        lines += [line] if line else []
        while len(word) > 1 and width(word, size) > inches:
            fits = next(k for k in range(len(word) - 1, 0, -1) if k == 1 or width(word[:k], size) <= inches)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line]


def _font() -> FT2Font:
    return font_manager.get_font(font_manager.findfont("DejaVu Sans"))
