"""Curves: what a network costs along its scaling rules, and how accurate the shipped networks are for their MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from ..arch.analysis import analyze
from ..arch.resolve import resolve
from ..arch.spec import load_spec
from ..arch.summary import si
from ..arch.variants import Variant
from ..config import shipped
from .defaults import default_settings
from .labels import End, Label, Spot, name_ends, place_labels
from .style import TEXT, THEMES, Theme, ThemeName, add_axes, new_figure, text_width

Quantity = Literal["params", "macs", "activations"]

_WIDTH = 516.0  # in points: a page of two columns
_MARKERS = "osD^vPX"
_NAMES: Mapping[Quantity, str] = {"params": "params", "macs": "MACs", "activations": "activations"}


@dataclass(frozen=True, slots=True)
class Point:
    """A network with its reported ImageNet top-1 accuracy in percent, and its costs at the resolution of that."""

    name: str
    family: str
    macs: int
    params: int
    top1: float


@default_settings()
def plot_sweep(
    series: Mapping[str, Sequence[Variant]],
    quantity: Quantity = "macs",
    budgets: Mapping[str, float] | None = None,
    theme: ThemeName = "light",
    chosen: Variant | None = None,
    name: str = "",
) -> Figure:
    """A cost over phi, a line for each rule, the budget of this cost, and the chosen variant marked.

    The keys of `series` name the lines (compound, depth, width, resolution), those of `budgets` are quantities. `name`
    is that of the network.
    """
    colors, budget = THEMES[theme], (budgets or {}).get(quantity)
    title = f"{name}: {_NAMES[quantity]} over φ" if name else f"{_NAMES[quantity]} over φ"
    lines = {rule: [_at(variant, quantity) for variant in variants] for rule, variants in series.items()}
    ends = [End(rule, points[-1], colors.line(i)) for i, (rule, points) in enumerate(lines.items())]
    if budget is not None:
        ends.append(End(f"budget {si(budget)}", (max(end.point[0] for end in ends), budget), colors.muted))
    figure = new_figure(_WIDTH, 300.0, colors, title)
    right = max(text_width(end.name, TEXT) for end in ends) + 28.0
    axes = add_axes(figure, colors, right, title, "φ", _NAMES[quantity])
    _draw_lines(axes, colors, lines)
    if budget is not None:
        axes.axhline(budget, color=colors.muted, linewidth=1.0, linestyle=(0, (5, 3)), gid="budget")
    if chosen is not None:
        axes.plot(*_at(chosen, quantity), "*", color=colors.ink, markersize=9, zorder=3, gid="chosen")
    _scale_costs(axes)
    name_ends(axes, colors, ends)
    if chosen is not None:
        level = [] if budget is None else [[(x, budget) for x in axes.get_xlim()]]
        place_labels(axes, colors, [*lines.values(), *level], [_say(chosen, quantity)])
    return figure


@default_settings()
def plot_accuracy(points: Sequence[Point], theme: ThemeName = "light") -> Figure:
    """Top-1 accuracy over MACs, a line for each family; its largest network has the full name, the others the rest."""
    colors, title = THEMES[theme], "Accuracy of the shipped networks, as published"
    families: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: (point.macs, point.name)):
        families.setdefault(point.family, []).append(point)
    lines = {family: [(point.macs, point.top1) for point in members] for family, members in families.items()}
    figure = new_figure(_WIDTH, 380.0, colors, title)
    axes = add_axes(figure, colors, 12.0, title, "MACs", "ImageNet top-1, %")
    _draw_lines(axes, colors, lines)
    axes.set_xscale("log")
    _mark_thousands(axes.xaxis)
    axes.margins(0.06)
    axes.autoscale_view()
    labels = [Label(members[-1].name, lines[family][-1], "bold") for family, members in families.items()]
    labels += [Label(_short(each), (each.macs, each.top1)) for members in families.values() for each in members[:-1]]
    place_labels(axes, colors, lines.values(), labels)
    return figure


def published_points() -> list[Point]:
    """The shipped archspecs that say which accuracy was published; a family is a folder of them."""
    points = []
    for name, file in shipped("archspecs").items():
        spec = load_spec(name)
        published = spec.published
        if published is not None and published.top1 is not None:
            total = analyze(resolve(spec, resolution=published.resolution)).total
            points.append(Point(name, file.parent.name, total.macs, total.params, published.top1))
    return points


def _at(variant: Variant, quantity: Quantity) -> Spot:
    """The point of a variant in the picture."""
    assert variant.phi is not None, "a variant of a grid has no place on a line over phi"
    costs = {"params": variant.params, "macs": variant.macs, "activations": variant.activations}
    return variant.phi, costs[quantity]


def _draw_lines(axes: Axes, colors: Theme, lines: Mapping[str, Sequence[Spot]]) -> None:
    """Lines with markers, which tell them apart where the colours do not."""
    for i, (label, points) in enumerate(lines.items()):
        x, y = zip(*points, strict=True)
        axes.plot(
            x, y, label=label, color=colors.line(i), marker=_MARKERS[i % len(_MARKERS)], markersize=4.5,
            markevery=max(1, len(points) // 20), linewidth=1.4,
        )  # fmt: skip


def _say(chosen: Variant, quantity: Quantity) -> Label:
    """What the star is."""
    phi, cost = _at(chosen, quantity)
    scaled = f"depth ×{chosen.depth:.3g}, width ×{chosen.width:.3g}, {chosen.resolution} px"
    return Label(f"φ = {phi:.4g}: {si(cost)} {_NAMES[quantity]}\n{scaled}", (phi, cost), "bold")


def _scale_costs(axes: Axes) -> None:
    """A log axis where the costs differ by more than a factor of 3, else one from 0."""
    if axes.dataLim.y1 > 3 * axes.dataLim.y0:
        axes.set_yscale("log")
        axes.margins(0.04, 0.08)
        axes.autoscale_view()
    else:
        axes.margins(0.04)
        axes.autoscale_view()
        axes.set_ylim(0, 1.1 * axes.dataLim.y1)
    _mark_thousands(axes.yaxis)


def _mark_thousands(axis: Axis) -> None:
    """Ticks like `500 M`; on a log axis at 1, 2 and 5 of each decade."""
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(EngFormatter(sep=" "))


def _short(point: Point) -> str:
    """`b4` of efficientnet-b4 in the family efficientnet; `lite0` of efficientnet-lite0 in efficientnet-lite."""
    words = point.family.split("-")
    for count in range(len(words), 0, -1):
        shared = "-".join(words[:count]) + "-"
        if point.name.startswith(shared):
            return point.name.removeprefix(shared)
    return point.name
