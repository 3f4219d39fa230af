"""Labels beside points, each put where it covers least of what is drawn already."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from .defaults import FONT
from .style import POINTS_PER_INCH, SMALL, TEXT, Theme, text_width

# What it costs to cover these, beside 1 for each point of distance. Leaving the axes is as bad as covering a label.
_LABEL_COST, _MARKER_COST = 1e4, 300.0
_LEADER_COST, _LINE_COST = 100.0, 30.0  # of each step
_CROWDING_COST, _CROWDED = 5.0, 11.0  # of each point by which a label is nearer than this to the marker of another
_STEP, _GAP, _MARKER = 3.0, 3.0, 3.5
_DISTANCES = (4.0, 6.0, 9.0, 13.0, 18.0, 24.0, 31.0, 39.0, 48.0, 58.0)
_DIRECTIONS = 24
_NEAR = 8.0
_ROUNDS = 5

Spot: TypeAlias = tuple[float, float]


class Label(NamedTuple):
    """A text for a point of the data."""

    text: str
    point: Spot
    weight: str = "normal"


class End(NamedTuple):
    """Where a line ends, in the data."""

    name: str
    point: Spot
    color: str


class _Area(NamedTuple):
    """A rectangle in points, from the lower left corner of the figure, and what it costs to cover it."""

    left: float
    bottom: float
    right: float
    top: float
    cost: float = _LABEL_COST

    @property
    def center(self) -> Spot:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a label could stand: its area, and the steps of the thin line that leads to its point, if that is far."""

    distance: float
    area: _Area
    leader: tuple[_Area, ...]


def place_labels(axes: Axes, theme: Theme, lines: Iterable[Sequence[Spot]], labels: Sequence[Label]) -> None:
    """Label points of the data on axes whose limits are final and that show these lines, markers on their points."""
    drawn = [area for line in lines for area in _line_areas(axes, line)]
    markers = np.array([area.center for area in drawn if area.cost == _MARKER_COST])
    places: dict[Label, _Place] = {}
    for _ in range(_ROUNDS):
        before = dict(places)
        for label in labels:
            others = [place for other, place in places.items() if other != label]
            taken = [area for place in others for area in (place.area, *place.leader)]
            places[label] = _best(axes, label, np.array(drawn + taken), markers)
        if places == before:
            break
    for label, place in places.items():
        at = _at(axes, label.point)
        offset = place.area.left + _GAP - at[0], place.area.center[1] - at[1]
        how = {"weight": label.weight, "arrowprops": _leader(theme.muted) if place.leader else None}
        _annotate(axes, theme, label.text, label.point, offset, SMALL, **how)


def name_ends(axes: Axes, theme: Theme, ends: Sequence[End]) -> None:
    """Name lines to the right of the axes, at the height of their ends or moved apart; thin lines lead to the names."""
    ordered = sorted(ends, key=lambda end: end.point[1])
    heights = [_at(axes, end.point)[1] for end in ordered]
    for _ in range(100):
        for i in range(1, len(ordered)):
            lacking = max(0.0, 1.25 * TEXT - (heights[i] - heights[i - 1]))
            heights[i - 1 : i + 1] = heights[i - 1] - lacking / 2, heights[i] + lacking / 2
    for end, height in zip(ordered, heights, strict=True):
        at = _at(axes, end.point)
        offset = _frame(axes).right + 4.0 - at[0], height - at[1]
        leader = _leader(end.color) | {"relpos": (0.0, 0.5), "shrinkB": 0.0}
        _annotate(axes, theme, end.name, end.point, offset, TEXT, arrowprops=leader, annotation_clip=False)


def _leader(color: str) -> dict[str, Any]:
    return {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0.0, "shrinkB": 3.0}


def _annotate(axes: Axes, theme: Theme, text: str, point: Spot, offset: Spot, size: float, **how: Any) -> None:
    """Text with a rim of the background, so that it can be read where it covers a line after all."""
    rim = [withStroke(linewidth=2.0, foreground=theme.background)]
    axes.annotate(
        text, point, offset, textcoords="offset points", va="center", fontfamily=FONT, fontsize=size, color=theme.ink,
        parse_math=False, path_effects=rim, **how,
    )  # fmt: skip


def _unit(axes: Axes) -> float:
    """Points for a dot of the figure."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return POINTS_PER_INCH / figure.dpi


def _at(axes: Axes, point: Spot) -> Spot:
    """A point of the data, in points from the lower left corner of the figure."""
    across, up = _unit(axes) * axes.transData.transform(point)
    return float(across), float(up)


def _frame(axes: Axes) -> _Area:
    return _Area(*(_unit(axes) * np.array(axes.bbox.extents)).tolist())


def _line_areas(axes: Axes, line: Sequence[Spot]) -> Iterator[_Area]:
    """What a line covers; a hundred of its points tell well enough."""
    points = [_at(axes, point) for point in line[:: max(1, len(line) // 100)]]
    for point in points:
        yield _around(*point, _MARKER, _MARKER_COST)
    for start, end in pairwise(points):
        yield from _steps(start, end, _LINE_COST)


def _steps(start: Spot, end: Spot, cost: float) -> Iterator[_Area]:
    """Small areas along a line, without its ends."""
    count = max(2, round(math.dist(start, end) / _STEP))
    for i in range(1, count):
        part = i / count
        yield _around(start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1]), 0.5, cost)


def _around(x: float, y: float, radius: float, cost: float) -> _Area:
    return _Area(x - radius, y - radius, x + radius, y + radius, cost)


def _best(axes: Axes, label: Label, taken: np.ndarray, markers: np.ndarray) -> _Place:
    """The cheapest place for a label among areas that are taken and markers: a row for each, fields or coordinates."""
    width = text_width(label.text, SMALL, label.weight) + 2 * _GAP
    height = 1.25 * SMALL * (1 + label.text.count("\n"))
    frame = _frame(axes)
    at, lowest, best = _at(axes, label.point), math.inf, None
    others = markers[np.abs(markers - at).max(-1) > 0.1]
    for place in _candidates(at, width, height):
        if place.distance >= lowest:
            break
        area = place.area
        inside = (
            frame.left < area.left and area.right < frame.right and frame.bottom < area.bottom and area.top < frame.top
        )
        cost = place.distance + _LABEL_COST * (not inside) + _crowding(area, others)
        cost += _covered(np.array([area, *place.leader]), taken)
        if cost < lowest:
            lowest, best = cost, place
    assert best is not None
    return best


def _covered(ours: np.ndarray, taken: np.ndarray) -> float:
    """What it costs to draw our areas over those that are taken."""
    ours, taken = ours[:, None], taken[None]
    over = (ours[..., :2] < taken[..., 2:4]).all(-1) & (ours[..., 2:4] > taken[..., :2]).all(-1)
    return float((over * taken[..., 4]).sum())


def _crowding(area: _Area, markers: np.ndarray) -> float:
    """What it costs to stand so near to markers that the label could be theirs."""
    low, high = np.array(area[:2]), np.array(area[2:4])
    gaps = np.hypot(*np.maximum(np.maximum(low - markers, markers - high), 0.0).T)
    return float(_CROWDING_COST * np.maximum(_CROWDED - gaps, 0.0).sum())


def _candidates(at: Spot, width: float, height: float) -> Iterator[_Place]:
    """Places around a point, from the nearest outwards."""
    for distance in _DISTANCES:
        for i in range(_DIRECTIONS):
            across, up = math.cos(2 * math.pi * i / _DIRECTIONS), math.sin(2 * math.pi * i / _DIRECTIONS)
            # The point that the distance is to slides along the edge of the label that faces ours.
            left = at[0] + distance * across - width * (1 - across) / 2
            bottom = at[1] + distance * up - height * (1 - up) / 2
            area = _Area(left, bottom, left + width, bottom + height)
            yield _Place(distance, area, tuple(_steps(at, area.center, _LEADER_COST)) if distance > _NEAR else ())
