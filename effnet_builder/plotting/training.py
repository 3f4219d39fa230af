"""Pictures of a training and its test: curves over epochs, calibration, single images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from ..report import Picture, Row
from .confusion import plot_confusion
from .defaults import default_settings
from .labels import End, Spot, name_ends
from .style import (
    SMALL,
    TEXT,
    THEMES,
    Theme,
    ThemeName,
    add_page,
    add_panel,
    elide,
    new_figure,
    text_width,
    to_svg,
    write,
)

if TYPE_CHECKING:
    from ..train.metrics import Metrics, ReliabilityBin

_WIDTH = 516.0  # in points: a page of two columns
_LEFT, _TITLE = 46.0, 26.0
_MARKED = 30  # epochs that get a marker each
_LOSSES = {"training": "train_loss", "validation": "valid_loss", "average": "ema_loss"}
_ACCURACIES = {"training": "train_accuracy", "validation": "valid_accuracy", "average": "ema_accuracy"}


@default_settings()
def plot_curves(history: Sequence[Row], theme: ThemeName = "light") -> Figure:
    """Loss, accuracy and learning rate over the epochs of a training; `average` is of the averaged weights."""
    colors = THEMES[theme]
    figure = new_figure(_WIDTH, 470.0, colors, "Training")
    right = max(text_width(name, TEXT) for name in _LOSSES) + 20.0
    panels = []
    for top, height, title in ((_TITLE, 150.0, "Loss"), (208.0, 150.0, "Accuracy"), (390.0, 46.0, "Learning rate")):
        panels.append(add_panel(figure, colors, (_LEFT, top, _WIDTH - _LEFT - right, height), title))
    loss, accuracy, lr = panels
    ends = {axes: _draw_series(axes, colors, history, names) for axes, names in
            ((loss, _LOSSES), (accuracy, _ACCURACIES), (lr, {"": "lr"}))}  # fmt: skip
    values = [value for line in loss.lines for value in np.asarray(line.get_ydata()).tolist() if math.isfinite(value)]
    if values and 0 < 20 * min(values) < max(values):
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        loss.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        loss.yaxis.set_minor_formatter(NullFormatter())
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    lr.set_ylim(bottom=0)
    lr.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    lr.set_xlabel("epoch", fontsize=TEXT, color=colors.ink)
    for axes in panels:
        axes.set_xlim(*_padded([row["epoch"] or 0.0 for row in history]))
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        axes.tick_params(labelbottom=axes is lr)
        if axes is not lr:
            name_ends(axes, colors, ends[axes])
    return figure


@default_settings()
def plot_reliability(bins: Sequence[ReliabilityBin], calibration_error: float, theme: ThemeName = "light") -> Figure:
    """Accuracy over the probability of the first answer, bin by bin, and how many images are in each bin."""
    colors, title = THEMES[theme], f"Reliability: calibration error {calibration_error:.2%}".replace("%", " %")
    figure = new_figure(300.0, 366.0, colors, title)
    width = 300.0 - _LEFT - 14.0
    upper = add_panel(figure, colors, (_LEFT, _TITLE + 16.0, width, 210.0), "", "", "accuracy")
    lower = add_panel(figure, colors, (_LEFT, 272.0, width, 54.0), "", "probability of the first answer", "images")
    page = add_page(figure)
    page.set_zorder(-1)
    write(page, _LEFT, 16.0, title, TEXT + 2, colors.ink, weight="bold")
    _write_key(page, colors, [("accuracy", colors.line(0)), ("mean probability", colors.line(1))])
    for each in bins:
        size, middle = each.high - each.low, (each.low + each.high) / 2
        lower.bar(middle, each.count, 0.86 * size, color=colors.muted)
        if each.accuracy is not None and each.confidence is not None:
            upper.bar(middle, each.accuracy, 0.86 * size, color=colors.line(0))
            upper.plot([each.low, each.high], 2 * [each.confidence], color=colors.line(1), linewidth=1.8)
    upper.plot([0, 1], [0, 1], color=colors.ink, linewidth=1.0, linestyle=(0, (4, 3)), gid="ideal")
    upper.set(xlim=(0, 1), ylim=(0, 1))
    lower.set_xlim(0, 1)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    upper.tick_params(labelbottom=False)
    return figure


@default_settings()
def plot_images(images: np.ndarray, captions: Sequence[str], theme: ThemeName = "light", title: str = "") -> Figure:
    """Images (N, C, H, W) of uint8 in rows of six, each above the lines of its caption.

    Of one or two channels the first is drawn in grey, of more the first three as red, green and blue.
    """
    colors, size, gap = THEMES[theme], 76.0, 8.0
    columns = min(6, max(1, len(images)))
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    high = size + 1.35 * SMALL * lines + 12.0
    width = max(2 * 14.0 + columns * (size + gap) - gap, text_width(title, TEXT + 2, "bold") + 28.0)
    top = _TITLE if title else 12.0
    figure = new_figure(width, top + math.ceil(len(images) / columns) * high + 4.0, colors, title or "Images")
    page = add_page(figure)
    write(page, 14.0, 16.0, title, TEXT + 2, colors.ink, weight="bold")
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = 14.0 + i % columns * (size + gap), top + i // columns * high
        axes = add_panel(figure, colors, (x, y, size, size))
        axes.set_axis_off()
        shown = image[0] if len(image) < 3 else image[:3].transpose(1, 2, 0)
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for j, line in enumerate(caption.split("\n")):
            text = elide(line, SMALL, size)
            write(page, x, y + size + 9.0 + 1.35 * SMALL * j, text, SMALL, colors.muted if j else colors.ink)
    return figure


def training_pictures(history: Sequence[Row], metrics: Metrics, classes: Sequence[str]) -> dict[str, Picture]:
    """The pictures of a report, in both themes, by the names of `training_drawings`."""
    drawings = training_drawings(history, metrics, classes)
    return {name: Picture(to_svg(draw("light")), to_svg(draw("dark"))) for name, draw in drawings.items()}


def training_drawings(
    history: Sequence[Row], metrics: Metrics, classes: Sequence[str]
) -> dict[str, Callable[[ThemeName], Figure]]:
    """Return what draws the pictures of a report: `curves` (if there are epochs), `confusion` and `reliability`."""
    drawings: dict[str, Callable[[ThemeName], Figure]] = {
        "confusion": lambda theme: plot_confusion(metrics.confusion.numpy(), classes, theme),
        "reliability": lambda theme: plot_reliability(metrics.reliability, metrics.calibration_error, theme),
    }
    if history:
        drawings["curves"] = lambda theme: plot_curves(history, theme)
    return drawings


def _draw_series(axes: Axes, colors: Theme, history: Sequence[Row], names: Mapping[str, str]) -> list[End]:
    """A line for each series that has a finite number, and where each ends."""
    ends = []
    for i, (name, field) in enumerate(names.items()):
        points = [(row["epoch"] or 0.0, _number(row.get(field))) for row in history]
        finite: list[Spot] = [point for point in points if math.isfinite(point[1])]
        if finite:
            alone = len(history) <= _MARKED
            axes.plot(
                *zip(*points, strict=True), label=name, color=colors.line(i), linewidth=1.4,
                marker="osD"[i] if alone else "", markersize=3.0, clip_on=False,
            )  # fmt: skip
            ends.append(End(name, finite[-1], colors.line(i)))
    return ends


def _number(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else value


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with a little room; one value stands in the middle."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.02 * (high - low) or 0.5
    return low - room, high + room


def _write_key(page: Axes, colors: Theme, entries: Sequence[tuple[str, str]]) -> None:
    """What the colours mean, in a line below the title."""
    x = _LEFT
    for name, color in entries:
        page.plot([x, x + 10.0], [29.0, 29.0], color=color, linewidth=4.0, solid_capstyle="butt")
        write(page, x + 14.0, 31.5, name, SMALL, colors.ink)
        x += text_width(name, SMALL) + 30.0
    page.plot([x, x + 14.0], [29.0, 29.0], color=colors.ink, linewidth=1.0, linestyle=(0, (4, 3)))
    write(page, x + 18.0, 31.5, "ideal", SMALL, colors.ink)
