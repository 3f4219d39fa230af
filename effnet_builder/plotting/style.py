"""What the pictures share: two themes, one font, points as the unit, and files that are whole and always the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from ..files import write_atomic
from .defaults import FONT, default_settings

ThemeName = Literal["light", "dark"]
POINTS_PER_INCH = 72
TEXT, SMALL = 8.0, 6.5
_PNG_DPI = 200


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours. `ink` and `muted` are for text, `band` and `grid` for what stands behind, `lines` are told apart."""

    background: str
    ink: str
    muted: str
    grid: str
    band: str
    blocks: Mapping[str, str]
    lines: tuple[str, ...]

    def line(self, i: int) -> str:
        """The colour of line `i`; they repeat."""
        return self.lines[i % len(self.lines)]


# Okabe & Ito 2008, told apart with every kind of colour vision; of these, what has a contrast of 3 to the background.
THEMES: Mapping[ThemeName, Theme] = {
    "light": Theme(
        background="#ffffff",
        ink="#1a1a1a",
        muted="#5f6368",
        grid="#d9dcdf",
        band="#f4f5f6",
        blocks={
            "mbconv": "#0072b2",
            "fused_mbconv": "#d55e00",
            "depthwise_separable": "#009e73",
            "universal_inverted_bottleneck": "#b85c92",  # their purple is too pale on white
            "conv": "#80868b",
            "linear": "#1a1a1a",
        },
        lines=("#0072b2", "#d55e00", "#009e73", "#b85c92", "#1a1a1a", "#80868b"),
    ),
    "dark": Theme(
        background="#15181b",
        ink="#e8eaed",
        muted="#a6adb4",
        grid="#373c42",
        band="#1c2024",
        blocks={
            "mbconv": "#56b4e9",
            "fused_mbconv": "#e69f00",
            "depthwise_separable": "#009e73",
            "universal_inverted_bottleneck": "#cc79a7",
            "conv": "#80868b",
            "linear": "#e8eaed",
        },
        lines=("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#a6adb4"),
    ),
}


def new_figure(width: float, height: float, theme: Theme, title: str) -> Figure:
    """An empty figure on the theme's background, its size in points; files carry the title in their metadata."""
    size = width / POINTS_PER_INCH, height / POINTS_PER_INCH
    return Figure(size, facecolor=theme.background, label=title)


def add_page(figure: Figure) -> Axes:
    """The whole figure as a sheet to draw on: (0, 0) is its upper left corner, y points down, the unit is the point."""
    width, height = figure.get_size_inches() * POINTS_PER_INCH
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, width), ylim=(height, 0))
    page.set_axis_off()
    return page


def write(axes: Axes, x: float, y: float, text: str, size: float, color: str, **how: Any) -> Text:
    """Text in the one font, taken literally; its anchor is (x, y), by default the left end of the base line."""
    return axes.text(x, y, text, fontfamily=FONT, fontsize=size, color=color, parse_math=False, **how)


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width in points of the longest line."""
    font = FontProperties(family=FONT, size=size, weight=weight)
    return max(float(text_to_path.get_text_width_height_descent(line, font, False)[0]) for line in text.split("\n"))


def add_axes(figure: Figure, theme: Theme, right: float, title: str, x: str, y: str) -> Axes:
    """Axes over the whole figure, with a grid, a title and their names; `right` is the margin there in points."""
    width, height = figure.get_size_inches() * POINTS_PER_INCH
    left, bottom, top = 54.0, 36.0, 28.0
    return add_panel(figure, theme, (left, top, width - left - right, height - bottom - top), title, x, y)


def add_panel(
    figure: Figure, theme: Theme, area: tuple[float, float, float, float], title: str = "", x: str = "", y: str = ""
) -> Axes:
    """Axes with a grid in a part of the figure: left, top, width, height in points from its upper left corner."""
    width, height = figure.get_size_inches() * POINTS_PER_INCH
    rectangle = area[0] / width, 1 - (area[1] + area[3]) / height, area[2] / width, area[3] / height
    axes = figure.add_axes(rectangle, facecolor=theme.background)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.muted)
    axes.tick_params(which="both", color=theme.muted, labelcolor=theme.ink, labelsize=SMALL, labelfontfamily=FONT)
    axes.grid(color=theme.grid, linewidth=0.5)
    axes.set_axisbelow(True)
    literal: Any = {"fontfamily": FONT, "color": theme.ink, "parse_math": False}
    axes.set_title(title, fontsize=TEXT + 2, loc="left", weight="bold", **literal)
    axes.set_xlabel(x, fontsize=TEXT, **literal)
    axes.set_ylabel(y, fontsize=TEXT, **literal)
    return axes


def elide(text: str, size: float, width: float) -> str:
    """The text on one line, cut to a width in points; a box stands for each character that the font lacks."""
    text = "".join(letter if _has_glyph(letter) else "□" for letter in " ".join(text.split()))
    if text_width(text, size) <= width:
        return text
    length = max((i for i in range(len(text)) if text_width(f"{text[:i].rstrip()}…", size) <= width), default=0)
    return f"{text[:length].rstrip()}…"


def _has_glyph(letter: str) -> bool:
    return get_font(findfont(FontProperties(family=FONT))).get_char_index(ord(letter)) > 0


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a picture as .svg or .png, by its suffix, whole or not at all; the same picture is the same bytes.

    Raises ValueError for another suffix, OSError where the file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise ValueError(f"{target}: a picture is written as .svg or .png, not as '{suffix}'")
    write_atomic(target, _drawn(figure, suffix[1:]))


def to_svg(figure: Figure) -> str:
    """The picture as SVG; the same picture is the same text."""
    return _drawn(figure, "svg").decode()


def _drawn(figure: Figure, kind: str) -> bytes:
    drawn = BytesIO()
    with default_settings():
        about = {"Title": figure.get_label(), **({"Date": None} if kind == "svg" else {})}
        figure.savefig(drawn, format=kind, dpi=_PNG_DPI, facecolor=figure.get_facecolor(), metadata=about)
    return drawn.getvalue()
