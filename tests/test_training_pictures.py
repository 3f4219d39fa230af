"""Pictures of a training, read back from the figures: every number in its place, no text on another."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix
from test_plotting import assert_legible, contrast, texts

from effnet_builder.plotting import (
    plot_confusion,
    plot_curves,
    plot_images,
    plot_reliability,
    to_svg,
    training_pictures,
)
from effnet_builder.plotting.style import SMALL, THEMES, elide, text_width
from effnet_builder.train.metrics import Metrics, measure
from effnet_builder.train.predictions import predict_batch


def history(epochs: int, average: bool = True) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    for epoch in range(1, epochs + 1):
        done = epoch / epochs
        rows.append(
            {
                "epoch": epoch, "lr": 0.2 * (1 - done), "train_loss": 2.3 * math.exp(-3 * done) + 0.05,
                "train_accuracy": 1 - 0.9 * math.exp(-4 * done), "valid_loss": 2.4 * math.exp(-2.6 * done) + 0.2,
                "valid_accuracy": 0.93 - 0.85 * math.exp(-4 * done),
                "ema_loss": 2.4 * math.exp(-2.7 * done) + 0.19 if average else None,
                "ema_accuracy": 0.94 - 0.9 * math.exp(-4 * done) if average else None, "seconds": 3.2,
            }
        )  # fmt: skip
    return rows


def evaluated(count: int, classes: int, seed: int = 0) -> Metrics:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 3
    return measure(predict_batch(2 * logits, labels), classes)


# Curves


@pytest.mark.parametrize(
    ("epochs", "theme", "average"), [(1, "light", True), (7, "dark", False), (60, "light", True), (1000, "dark", True)]
)
def test_curves_are_the_history(epochs: int, theme: str, average: bool) -> None:
    rows = history(epochs, average)
    figure = plot_curves(rows, theme)
    loss, accuracy, lr = figure.axes
    fields = ["train", "valid", "ema"][: 3 if average else 2]
    for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
        assert [line.get_label() for line in axes.lines] == ["training", "validation", "average"][: len(fields)]
        assert len({line.get_color() for line in axes.lines}) == len(fields)
        for line, field in zip(axes.lines, fields, strict=True):
            assert line.get_xydata().tolist() == [[row["epoch"], row[f"{field}_{kind}"]] for row in rows]
        assert {text.get_text() for text in axes.texts} == {line.get_label() for line in axes.lines}
    assert lr.lines[0].get_xydata().tolist() == [[row["epoch"], row["lr"]] for row in rows]
    assert to_hex(figure.get_facecolor()) == THEMES[theme].background
    ticks = [tick for tick in lr.get_xticks() if lr.get_xlim()[0] <= tick <= lr.get_xlim()[1]]
    assert ticks
    assert all(tick == round(tick) for tick in ticks), "no half epochs"
    assert_legible(figure)


def test_curves_show_gaps_where_numbers_are_missing() -> None:
    rows = history(4)
    rows[1]["train_loss"], rows[2]["train_loss"], rows[3]["valid_loss"] = None, math.inf, math.nan
    for row in rows:
        del row["train_accuracy"]
    loss, accuracy, _ = plot_curves(rows).axes
    drawn = loss.lines[0].get_ydata()
    assert [math.isnan(value) for value in drawn] == [False, True, True, False]
    assert math.isnan(loss.lines[1].get_ydata()[3])
    assert [line.get_label() for line in accuracy.lines] == ["validation", "average"]


def test_a_loss_of_several_decades_is_on_a_log_axis() -> None:
    rows = history(5)
    assert plot_curves(rows).axes[0].get_yscale() == "linear"
    rows[0]["train_loss"] = 100.0
    figure = plot_curves(rows)
    assert figure.axes[0].get_yscale() == "log"
    assert {"1", "10", "100"} <= {text for text, _ in texts(figure)}
    assert_legible(figure)
    rows[4]["valid_loss"] = 0.0
    assert plot_curves(rows).axes[0].get_yscale() == "linear", "there is no log of 0"


# Confusion

NAMES = {
    2: ["cat", "dog"],
    10: ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "鳥", "$x_1$ <b>\n[red]"],
    20: [f"class number {i} with a name that is far too long for a label" for i in range(20)],
    47: [f"n{i:08d}" for i in range(47)],
    1000: [f"n{i:08d}" for i in range(1000)],
}


@pytest.mark.parametrize(
    ("classes", "theme"), [*product((2, 10, 20), ("light", "dark")), (47, "dark"), (1000, "light")]
)
def test_confusion_is_legible_for_any_number_of_classes(classes: int, theme: str) -> None:
    metrics = evaluated(60_000 if classes == 20 else 30 * classes, classes)
    figure = plot_confusion(metrics.confusion.numpy(), NAMES[classes], theme)
    assert_legible(figure)
    axes = figure.axes[0]
    every = {2: 1, 10: 1, 20: 1, 47: 1, 1000: 50}[classes]
    for names in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert len(names) == len(range(0, classes, every))
        for shown, name in zip(names, NAMES[classes][::every], strict=True):
            assert " ".join(name.split()).replace("鳥", "□").startswith(shown.get_text().rstrip("…"))
    assert (every > 1) == ("1 of 50 named" in axes.get_xlabel())


def test_confusion_is_shaded_by_the_share_of_the_row() -> None:
    generator = np.random.default_rng(0)
    truth, answers = generator.integers(0, 9, (2, 400))  # class 9 has no image and is never the answer
    matrix = confusion_matrix(truth, answers, labels=range(10))
    figure = plot_confusion(matrix, NAMES[10])
    shown = figure.axes[0].images[0].get_array()
    assert np.allclose(shown[:9], confusion_matrix(truth, answers, labels=range(10), normalize="true")[:9])
    assert shown.mask[9].all(), "nothing is known of a class without images"
    counts = {tuple(map(int, text.get_position()[::-1])): int(text.get_text()) for text in figure.axes[0].texts}
    assert counts == {(row, column): count for (row, column), count in np.ndenumerate(matrix) if count}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_counts_stand_out_from_their_shades(theme: str) -> None:
    matrix = np.array([[100 - share, share] for share in range(1, 100)] + [[1, 0]])
    matrix = np.pad(matrix, ((0, 0), (0, 18)))
    for rows in (matrix[i : i + 20] for i in range(0, 100, 20)):
        axes = plot_confusion(rows, [str(i) for i in range(20)], theme).axes[0]
        for text in axes.texts:
            column, row = map(int, text.get_position())
            shade = to_hex(axes.images[0].to_rgba(rows[row, column] / rows[row].sum()))
            assert contrast(to_hex(text.get_color()), shade) >= 4.5


@settings(max_examples=8)
@given(classes=st.integers(201, 450), seed=st.integers(0, 99))
def test_of_many_classes_the_highest_of_each_block_is_shown(classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.integers(0, 9, (classes, classes)) * (generator.random((classes, classes)) < 0.02)
    matrix[generator.integers(0, classes)] = 0
    axes = plot_confusion(matrix, [str(i) for i in range(classes)]).axes[0]
    shown, block = axes.images[0].get_array(), math.ceil(classes / 200)
    assert shown.shape[0] == math.ceil(classes / block)
    totals = matrix.sum(1)
    for row, column in generator.integers(0, len(shown), (20, 2)):
        rows = [i for i in range(row * block, min(classes, (row + 1) * block)) if totals[i]]
        cells = [
            matrix[i, j] / totals[i] for i in rows for j in range(column * block, min(classes, (column + 1) * block))
        ]
        assert shown.mask[row, column] if not cells else shown[row, column] == pytest.approx(max(cells))
    assert axes.get_xlim() == (-0.5, classes - 0.5)


# Reliability and images


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_reliability_draws_every_bin(theme: str) -> None:
    metrics = evaluated(500, 3)
    figure = plot_reliability(metrics.reliability, metrics.calibration_error, theme)
    assert_legible(figure)
    upper, lower, page = figure.axes
    filled = [each for each in metrics.reliability if each.count]
    assert [bar.get_height() for bar in upper.patches] == [each.accuracy for each in filled]
    assert [bar.get_x() + bar.get_width() / 2 for bar in upper.patches] == pytest.approx(
        [(each.low + each.high) / 2 for each in filled]
    )
    assert [bar.get_height() for bar in lower.patches] == [each.count for each in metrics.reliability]
    levels = [line.get_ydata() for line in upper.lines if line.get_gid() != "ideal"]
    assert np.allclose(levels, [[each.confidence] * 2 for each in filled])
    assert f"calibration error {100 * metrics.calibration_error:.2f} %" in page.texts[0].get_text()


@pytest.mark.parametrize(
    ("count", "channels", "theme"), [(1, 1, "light"), (6, 3, "dark"), (14, 4, "light"), (7, 2, "dark")]
)
def test_images_are_drawn_with_their_captions(count: int, channels: int, theme: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 8, 8), dtype=np.uint8)
    captions = [f"a very long name of class {i}\n$is$ a cat\n9{i}.00 %" for i in range(count)]
    figure = plot_images(images, captions, theme, "Misclassified images")
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    expected = images[:, 0] if channels < 3 else images[:, :3].transpose(0, 2, 3, 1)
    assert np.array_equal(np.array(shown), expected)
    assert [text.get_text() for text in figure.axes[0].texts][2::3] == count * ["$is$ a cat"]
    if count > 1:
        assert_legible(figure)
    assert_inside(figure)


def assert_inside(figure: Figure) -> None:
    width, height = figure.get_size_inches() * 100
    for text, area in texts(figure):
        assert 0 <= area[0] <= area[2] <= width, text
        assert 0 <= area[1] <= area[3] <= height, text
    for axes in figure.axes[1:]:
        assert axes.get_position().y0 >= 0, "an image leaves the picture"


def test_images_without_captions_of_different_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        plot_images(np.zeros((2, 1, 4, 4), np.uint8), ["one"])


@given(st.text(max_size=60), st.floats(10, 200))
def test_elided_texts_fit(text: str, width: float) -> None:
    short, whole = elide(text, SMALL, width), " ".join(text.split())
    assert text_width(short, SMALL) <= width
    kept = short.removesuffix("…") if len(short) <= len(whole) else short
    for ours, theirs in zip(kept, whole, strict=False):
        assert ours in (theirs, "□")
    if len(kept) < len(whole):
        assert short.endswith("…")
        longer = whole[: len(kept) + 8].isascii() and whole[: len(kept) + 8].isprintable()
        assert not longer or text_width(f"{whole[: len(kept) + 8].rstrip()}…", SMALL) > width - 2


def test_pictures_of_a_report_are_the_same_each_time() -> None:
    metrics, rows, names = evaluated(100, 10), history(5), NAMES[10]
    pictures = training_pictures(rows, metrics, names)
    assert set(pictures) == {"curves", "confusion", "reliability"}
    assert set(training_pictures([], metrics, names)) == {"confusion", "reliability"}
    assert pictures["curves"].light == to_svg(plot_curves(rows))
    assert pictures["confusion"].dark == to_svg(plot_confusion(metrics.confusion.numpy(), names, "dark"))
    for picture in pictures.values():
        for drawn, theme in ((picture.light, "light"), (picture.dark, "dark")):
            assert THEMES[theme].background in drawn
            assert "<text" not in drawn, "letters are paths, as wide as they were measured"
