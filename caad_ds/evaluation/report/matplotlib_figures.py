"""What pictures share: text that fits, and the way to a file."""

import io
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from caad_ds.utils.files import write_atomic

POINTS = 72  # to the inch
DOTS = 150  # to the inch


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG, or as an SVG where the file is called so, whole or not at all; alike every time."""
    figure.dpi = DOTS
    figure.draw_without_rendering()  # the first layout does not know yet where titles come to stand
    image = io.BytesIO()
    unsaid = ("Date", "Creator") if path.suffix == ".svg" else ("Software",)
    with matplotlib.rc_context({"svg.hashsalt": "caad-ds"}):
        figure.savefig(image, format=path.suffix[1:], dpi=DOTS, metadata=dict.fromkeys(unsaid))
    write_atomic(path, image.getvalue())


def drawable(text: str) -> str:
    """The text with what the font lacks escaped, `\\u4f60`."""
    font = _font()
    return "".join(letter if font.get_char_index(ord(letter)) else ascii(letter)[1:-1] for letter in text)


def width(text: str, size: float) -> float:
    """Inches that a drawable line takes in letters of `size` points."""
    font = _font()
    font.set_size(size, POINTS)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / POINTS  # matplotlib tells it in 64ths of a pixel


def wrapped(text: str, inches: float, size: float) -> list[str]:
    """The text, made drawable, in lines no wider than that; a word that is wider is divided."""
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
