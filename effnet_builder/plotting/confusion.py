"""Which class is taken for which: a confusion matrix as shades, for two classes or thousands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from .defaults import FONT, default_settings
from .style import SMALL, TEXT, THEMES, Theme, ThemeName, add_panel, elide, new_figure, text_width, write

_TITLE = 26.0
_COUNTED = 20  # classes that get their counts written
_MIDDLE = 0.179  # the luminance as far from black as from white: (1 + 0.05) / (x + 0.05) = (x + 0.05) / 0.05
_CELLS = 200  # in each direction: more would be too small to see


@default_settings()
def plot_confusion(matrix: np.ndarray, classes: Sequence[str], theme: ThemeName = "light") -> Figure:
    """How often a true class (rows) got which answer (columns): as a share of its images, up to 20 classes with counts.

    `matrix` is (classes, classes). Classes have their names where there is room for them, else every n-th has.
    """
    counts, count, colors = np.asarray(matrix), len(classes), THEMES[theme]
    side = min(400.0, max(160.0, 28.0 * count))
    every = next(step for step in _round_steps() if step * side / count >= 1.25 * SMALL)
    named = range(0, count, every)
    names = [elide(classes[i], SMALL, 110.0) for i in named]
    longest = max(text_width(name, SMALL) for name in names)
    upright = longest > every * side / count - 4.0
    below = (longest if upright else SMALL) + 26.0
    left = longest + 30.0
    width = max(left + side + 62.0, 260.0)
    figure = new_figure(width, _TITLE + side + below + 8.0, colors, "Confusion")
    axes = add_panel(figure, colors, (left, _TITLE, side, side), "Confusion")
    _shade(figure, axes, colors, counts, (left + side + 14.0, _TITLE, 9.0, min(side, 160.0)))
    step = "" if every == 1 else f", 1 of {every} named"
    axes.set_xlabel(f"predicted{step}", fontsize=TEXT, color=colors.ink)
    axes.set_ylabel(f"true{step}", fontsize=TEXT, color=colors.ink)
    axes.set_xticks(named, names, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(named, names, parse_math=False)
    if count <= _COUNTED:
        _write_counts(axes, counts, side / count)
    return figure


def _round_steps() -> list[int]:
    return [factor * 10**power for power in range(9) for factor in (1, 2, 5)]


def _shade(
    figure: Figure, axes: Axes, colors: Theme, counts: np.ndarray, area: tuple[float, float, float, float]
) -> None:
    """Cells by their share of the row, and the scale of shades in `area`; rows without images are left grey.

    Of very many classes a cell shows the highest share of a block: shares of single cells would be too small to see.
    """
    totals, count = counts.sum(1, keepdims=True), len(counts)
    block = math.ceil(count / _CELLS)
    shares = _highest(np.where(totals, counts / np.maximum(totals, 1), np.nan), block)
    shades = LinearSegmentedColormap.from_list("", [colors.background, colors.line(0)]).with_extremes(bad=colors.grid)
    reach = block * len(shares) - 0.5
    # Between the shades of a square root one mistake in a hundred can be seen.
    image = axes.imshow(
        shares, cmap=shades, norm=PowerNorm(0.5, 0, 1), interpolation="none", extent=(-0.5, reach, reach, -0.5)
    )
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    axes.grid(False)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(colors.grid)
    axes.tick_params(length=0)
    scale = add_panel(figure, colors, area)
    bar = figure.colorbar(image, scale, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1], format=PercentFormatter(1.0, 0, " %"))
    bar.outline.set_edgecolor(colors.grid)
    scale.tick_params(length=2)
    title = "of true" if block == 1 else f"most in {block} × {block}"
    scale.set_title(title, fontsize=SMALL, color=colors.muted, loc="left", fontfamily=FONT)


def _highest(shares: np.ndarray, block: int) -> np.ndarray:
    """The highest of each block x block cells, NaN where there is nothing else."""
    size = math.ceil(len(shares) / block)
    padded = np.full((size * block, size * block), -1.0)
    padded[: len(shares), : len(shares)] = np.nan_to_num(shares, nan=-1.0)
    highest: np.ndarray = padded.reshape(size, block, size, block).max((1, 3))
    return np.where(highest < 0, np.nan, highest)


def _write_counts(axes: Axes, counts: np.ndarray, cell: float) -> None:
    """The count in each cell that has one, in black or white: one of them has a contrast of 4.5 to any shade."""
    size = min(TEXT, SMALL * (cell - 3.0) / text_width(f"{counts.max()}", SMALL))
    for (row, column), number in np.ndenumerate(counts):
        if number:
            shade = _luminance(axes.images[0].to_rgba(number / counts[row].sum())[:3])
            ink = "#000000" if shade > _MIDDLE else "#ffffff"
            write(axes, column, row, f"{number}", size, ink, ha="center", va="center")


def _luminance(color: ArrayLike) -> float:
    """Relative luminance of sRGB from 0 to 1 (WCAG 2.2)."""
    parts = np.asarray(color, float)
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
