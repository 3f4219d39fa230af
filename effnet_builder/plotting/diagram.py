"""A network drawn to scale: a box for each block, below it the table of its parts, and their shares of the costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..arch.analysis import Analysis, Cost
from ..arch.plan import Plan
from ..arch.summary import counts_line
from .columns import HEADINGS, Box, Column, columns
from .defaults import default_settings
from .style import THEMES, Theme, ThemeName, add_page, new_figure, text_width, write

# In points; y is measured downwards from the top of the page.
_MARGIN, _GUTTER = 14.0, 9.0
_TITLE, _TEXT, _SMALL = 11.0, 7.0, 6.5
_LINE = 9.5
_GROUND, _TALLEST = 226.0, 150.0
_STRIP, _BAR, _HIGHEST_BAR = 44.0, 20.0, 24.0
_LEGEND_GAP = 14.0
_CAPTION = "Height of a box: √px, width: √channels, both of the block's output."


@dataclass(frozen=True, slots=True)
class _Scale:
    """Points for √channels, for √px, and between two boxes; between two row groups it is three times as much."""

    channels: float
    pixels: float
    gap: float

    def width(self, box: Box) -> float:
        return self.channels * math.sqrt(box.channels)

    def height(self, resolution: int) -> float:
        return self.pixels * math.sqrt(resolution)

    def span(self, part: Column) -> float:
        gaps = max(0, len(part.boxes) - 1) + 2 * (len(part.groups) - 1)
        return sum(map(self.width, part.boxes)) + gaps * self.gap


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand on the page: the `edges` of the columns, the tops of the `rows`, the feet of the `strips`."""

    width: float
    height: float
    scale: _Scale
    edges: tuple[float, ...]
    rows: tuple[float, ...]
    strips: tuple[float, float]

    def center(self, column: int) -> float:
        return (self.edges[column] + self.edges[column + 1]) / 2


@default_settings()
def diagram(plan: Plan, analysis: Analysis, theme: ThemeName = "light") -> Figure:
    """The network as boxes of height √px and width √channels, one for each block, above a table of its parts."""
    parts, colors = columns(plan, analysis), THEMES[theme]
    kinds = list(dict.fromkeys(box.type for part in parts for box in part.boxes))
    title = f"{counts_line(plan, analysis)}, {plan.num_classes:,} classes, {len(plan.blocks)} blocks"
    layout = _lay_out(parts, max(text_width(plan.name, _TITLE, "bold"), text_width(title, _TEXT), _legend_width(kinds)))
    figure = new_figure(layout.width, layout.height, colors, plan.name)
    page = add_page(figure)
    _draw_bands(page, layout, colors)
    write(page, _MARGIN, _MARGIN + 10, plan.name, _TITLE, colors.ink, weight="bold")
    write(page, _MARGIN, _MARGIN + 23, title, _TEXT, colors.ink)
    _draw_legend(page, colors, kinds)
    _draw_ruler(page, layout, colors, parts)
    _draw_boxes(page, layout, colors, parts)
    _draw_table(page, layout, colors, parts)
    _draw_shares(page, layout, colors, parts, analysis.total)
    write(page, _MARGIN, layout.height - _MARGIN, _CAPTION, _SMALL, colors.muted)
    return figure


def _lay_out(parts: Sequence[Column], header: float) -> _Layout:
    scale = _scale(parts)
    left = _MARGIN + max(text_width(heading, _SMALL) for heading in HEADINGS) + _GUTTER
    edges = tuple(accumulate((_width(part, scale) for part in parts), initial=left))
    texts = zip(HEADINGS, *(part.cells for part in parts), strict=True)
    heights = [_LINE * (1 + max(text.count("\n") for text in row)) + 3.0 for row in texts]
    rows = tuple(accumulate(heights, initial=_GROUND + 2.2 * _LINE))
    strips = rows[-1] + _STRIP, rows[-1] + 2 * _STRIP
    return _Layout(max(edges[-1], _MARGIN + header) + _MARGIN, strips[1] + 34.0, scale, edges, rows[:-1], strips)


def _scale(parts: Sequence[Column]) -> _Scale:
    boxes = [box for part in parts for box in part.boxes]
    room = min(max(6.0 * len(boxes), 360.0), 2400.0)
    gap = min(1.5, 0.15 * room / len(boxes))
    return _Scale(
        channels=(room - gap * len(boxes)) / sum(math.sqrt(box.channels) for box in boxes),
        pixels=_TALLEST / math.sqrt(max(box.resolution for box in boxes)),
        gap=gap,
    )


def _width(part: Column, scale: _Scale) -> float:
    texts = text_width(part.name, _TEXT, "bold"), *(text_width(cell, _TEXT) for cell in part.cells)
    return max(scale.span(part), *texts) + _GUTTER


def _legend_width(kinds: Sequence[str]) -> float:
    return sum(text_width(kind, _TEXT) + 9.0 + _LEGEND_GAP for kind in kinds)


def _draw_legend(page: Axes, colors: Theme, kinds: Sequence[str]) -> None:
    x, y = _MARGIN, _MARGIN + 38.0
    for kind in kinds:
        page.add_patch(Rectangle((x, y - 6), 6, 6, facecolor=colors.blocks[kind], linewidth=0))
        write(page, x + 9, y, kind, _TEXT, colors.ink)
        x += text_width(kind, _TEXT) + 9.0 + _LEGEND_GAP


def _draw_bands(page: Axes, layout: _Layout, colors: Theme) -> None:
    """Every other column shaded, to lead the eye from the boxes to the numbers."""
    top, bottom = _GROUND - _TALLEST - 8.0, layout.strips[1] + 4.0
    for start, end in list(pairwise(layout.edges))[1::2]:
        band = Rectangle((start, top), end - start, bottom - top, facecolor=colors.band, linewidth=0, zorder=0.8)
        page.add_patch(band)


def _draw_ruler(page: Axes, layout: _Layout, colors: Theme, parts: Sequence[Column]) -> None:
    """A line for each resolution, named where there is room."""
    left, right, above = layout.edges[0], layout.edges[-1], _GROUND - _TALLEST - _LINE
    write(page, left - 6, above, "px", _SMALL, colors.muted, ha="right")
    for resolution in sorted({box.resolution for part in parts for box in part.boxes}, reverse=True):
        y = _GROUND - layout.scale.height(resolution)
        page.hlines(y, left - 3, right, color=colors.grid, linewidth=0.5, zorder=0.9)
        if y - above >= _LINE:
            above = y
            write(page, left - 6, y + 2.3, str(resolution), _SMALL, colors.muted, ha="right")
    page.hlines(_GROUND, left - 3, right, color=colors.muted, linewidth=0.5)


def _draw_boxes(page: Axes, layout: _Layout, colors: Theme, parts: Sequence[Column]) -> None:
    scale = layout.scale
    for i, part in enumerate(parts):
        x = layout.center(i) - scale.span(part) / 2
        for group in part.groups:
            for box in group:
                width, height = scale.width(box), scale.height(box.resolution)
                patch = Rectangle((x, _GROUND - height), width, height, facecolor=colors.blocks[box.type], linewidth=0)
                patch.set_snap(False)  # a narrow box is as wide as it should be, not a whole number of dots
                patch.set_gid(box.path)
                page.add_patch(patch)
                x += width + scale.gap
            x += 2 * scale.gap


def _draw_table(page: Axes, layout: _Layout, colors: Theme, parts: Sequence[Column]) -> None:
    for i, part in enumerate(parts):
        write(page, layout.center(i), _GROUND + 1.3 * _LINE, part.name, _TEXT, colors.ink, ha="center", weight="bold")
        for top, cell in zip(layout.rows, part.cells, strict=True):
            for j, line in enumerate(cell.split("\n")):
                write(page, layout.center(i), top + j * _LINE + 7, line, _TEXT, colors.ink, ha="center")
    for top, heading in zip(layout.rows, HEADINGS, strict=True):
        for j, line in enumerate(heading.split("\n")):
            write(page, _MARGIN, top + j * _LINE + 7, line, _SMALL, colors.muted)


def _draw_shares(page: Axes, layout: _Layout, colors: Theme, parts: Sequence[Column], total: Cost) -> None:
    """A bar for each part's share of the params and of the MACs, all on one scale."""
    params = [part.cost.params / total.params for part in parts]
    macs = [part.cost.macs / total.macs for part in parts]
    scale = _HIGHEST_BAR / max(*params, *macs)
    for name, foot, shares in zip(("params", "MACs"), layout.strips, (params, macs), strict=True):
        write(page, _MARGIN, foot, f"share of {name}", _SMALL, colors.muted)
        page.hlines(foot, layout.edges[0] - 3, layout.edges[-1], color=colors.muted, linewidth=0.5)
        for i, share in enumerate(shares):
            corner = layout.center(i) - _BAR / 2, foot - scale * share
            bar = Rectangle(corner, _BAR, scale * share, facecolor=colors.muted, linewidth=0, gid=f"{name}.{i}")
            page.add_patch(bar)
            write(page, layout.center(i), corner[1] - 2.5, f"{100 * share:.1f} %", _SMALL, colors.ink, ha="center")
