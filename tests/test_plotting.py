"""Pictures, read back from the figures: boxes to scale, every number in its place, no text on another, whole files."""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from writing import WriteYaml

from effnet_builder import analyze, load_spec, resolve
from effnet_builder.arch.rows import AnyRow
from effnet_builder.plotting import Point, diagram, plot_accuracy, plot_sweep, published_points, save
from effnet_builder.plotting.style import THEMES

# Of 7 stages, of 55 blocks, with lists of rows, of 100 blocks, and with a head that has no convolution.
NETWORKS = ["efficientnet-b0", "efficientnet-b7", "mobilenetv4-conv-medium", "efficientnetv2-xl", "repvgg-a0-deploy"]
# The table in the README, and shares by hand: 2,026,348 of 5,288,548 params are 38.3 %.
B0 = """
stem      | conv               |   | 3×3     | 224 → 112 | 3 → 32     | 928       | 10.84 M | 0.0 %  | 2.8 %
stages[0] | mbconv             | 1 | ×1, 3×3 | 112 → 112 | 32 → 16    | 1,448     | 10.04 M | 0.0 %  | 2.6 %
stages[1] | mbconv             | 2 | ×6, 3×3 | 112 → 56  | 16 → 24    | 16,714    | 54.95 M | 0.3 %  | 14.2 %
stages[2] | mbconv             | 2 | ×6, 5×5 | 56 → 28   | 24 → 40    | 46,640    | 37.94 M | 0.9 %  | 9.8 %
stages[3] | mbconv             | 3 | ×6, 3×3 | 28 → 14   | 40 → 80    | 242,930   | 43.56 M | 4.6 %  | 11.3 %
stages[4] | mbconv             | 3 | ×6, 5×5 | 14 → 14   | 80 → 112   | 543,148   | 86.10 M | 10.3 % | 22.3 %
stages[5] | mbconv             | 4 | ×6, 5×5 | 14 → 7    | 112 → 192  | 2,026,348 | 91.53 M | 38.3 % | 23.7 %
stages[6] | mbconv             | 1 | ×6, 3×3 | 7 → 7     | 192 → 320  | 717,232   | 29.52 M | 13.6 % | 7.7 %
head      | conv, pool, linear |   | 1×1     | 7 → 1     | 320 → 1280 | 1,693,160 | 21.35 M | 32.0 % | 5.5 %
"""


@dataclass(frozen=True)
class Scaled:
    """A variant, as `plot_sweep` takes them."""

    phi: float
    depth: float
    width: float
    resolution: int
    params: int
    macs: int
    activations: int


def draw(name: str, theme: str = "light") -> Figure:
    plan = resolve(load_spec(name))
    return diagram(plan, analyze(plan), theme)


def boxes(figure: Figure) -> dict[str, Rectangle]:
    """What has a name in the drawing: blocks and layers, and the bars of the shares."""
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return {str(patch.get_gid()): patch for patch in patches if patch.get_gid()}


def texts(figure: Figure) -> list[tuple[str, np.ndarray]]:
    """Every text that is drawn, with its (left, bottom, right, top) in dots, 100 for an inch."""
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = []
    for axes in figure.axes:
        found += axes.texts
        if axes.axison:
            found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
            for axis in (axes.xaxis, axes.yaxis):
                low, high = axis.get_view_interval()
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                found += [label for tick in ticks for label in (tick.label1, tick.label2)]
    # Of an annotation the text alone, without the line that leads to its point.
    shown = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), Text.get_window_extent(text, canvas.get_renderer()).extents) for text in shown]


def assert_legible(figure: Figure) -> None:
    """No text stands on another or leaves the picture."""
    width, height = figure.get_size_inches() * 100
    found = texts(figure)
    assert len(found) > 5
    for text, area in found:
        assert area[0] >= 0, text
        assert area[1] >= 0, text
        assert area[2] <= width, text
        assert area[3] <= height, text
    for (one, a), (other, b) in combinations(found, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_are_to_scale(name: str) -> None:
    plan = resolve(load_spec(name))
    shapes = {block.path: (block.convs[-1].out_channels, block.out_resolution) for block in plan.blocks}
    layers = [plan.stem, *([plan.head.conv] if plan.head.conv else [])]
    shapes |= {layer.path: (layer.out_channels, layer.out_resolution) for layer in layers}
    shapes |= {plan.head.classifier.path: (plan.num_classes, 1)}
    found = {path: box for path, box in boxes(draw(name)).items() if path in shapes}
    assert found.keys() == shapes.keys()
    assert len({round(box.get_width() ** 2 / shapes[path][0], 9) for path, box in found.items()}) == 1
    assert len({round(box.get_height() ** 2 / shapes[path][1], 9) for path, box in found.items()}) == 1
    assert len({round(box.get_y() + box.get_height(), 9) for box in found.values()}) == 1, "one ground"


def test_boxes_of_b0_are_those_of_the_paper() -> None:
    found = list(boxes(draw("efficientnet-b0")).values())[:19]  # behind them come the bars
    channels = [32, 16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320, 1280, 1000]
    px = [112, 112, 56, 56, 28, 28] + 6 * [14] + 6 * [7] + [1]
    assert [round(32 * (box.get_width() / found[0].get_width()) ** 2, 6) for box in found] == channels
    assert [round(112 * (box.get_height() / found[0].get_height()) ** 2, 6) for box in found] == px


@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_stand_in_the_order_of_the_forward_pass_and_apart(name: str) -> None:
    plan = resolve(load_spec(name))
    found = boxes(draw(name))
    order = [plan.stem.path, *(block.path for block in plan.blocks)]
    groups = [group.name for stage in plan.stages for group in stage.groups for _ in group.blocks]
    gaps = [
        found[after].get_x() - found[before].get_x() - found[before].get_width() for before, after in pairwise(order)
    ]
    within = [gap for gap, (before, after) in zip(gaps[1:], pairwise(groups), strict=True) if before == after]
    between = [gap for gap, (before, after) in zip(gaps[1:], pairwise(groups), strict=True) if before != after]
    assert min(within, default=1) > 0.5
    assert min(between) > 2.9 * max(within, default=0.5)


def test_every_number_of_b0_stands_under_its_stage() -> None:
    figure = draw("efficientnet-b0")
    columns: dict[float, list[str]] = {}
    for text in sorted(figure.axes[0].texts, key=lambda text: text.get_position()[1]):
        if text.get_horizontalalignment() == "center" and text.get_text():
            columns.setdefault(text.get_position()[0], []).append(text.get_text())
    expected = [[cell.strip() for cell in line.split("|") if cell.strip()] for line in B0.strip().splitlines()]
    assert [column for _, column in sorted(columns.items())] == expected
    for i, (center, _) in enumerate(sorted(columns.items())):
        inside = [box for path, box in boxes(figure).items() if path.startswith(f"stages.{i - 1}.")]
        if inside:
            assert (inside[0].get_x() + inside[-1].get_x() + inside[-1].get_width()) / 2 == pytest.approx(center)


def test_stages_of_several_rows_say_what_each_is() -> None:
    shown = [text.get_text() for text in draw("mobilenetv4-conv-medium").axes[0].texts]
    spec = load_spec("mobilenetv4-conv-medium")
    rows = [row for stage in spec.stages if isinstance(stage, tuple) for row in stage]
    expected = Counter()
    for row in rows:
        kernels = [size for size in (row.start_kernel_size, row.kernel_size) if size] or [1]
        expected[f"{row.repeats} of ×{row.expand_ratio:g}, {' '.join(f'{size}×{size}' for size in kernels)}"] += 1
    assert len(rows) == 18
    assert Counter(text for text in shown if " of ×" in text) == expected
    assert Counter(shown)["bottleneck"] == 3


@pytest.mark.parametrize("name", [*NETWORKS, "mobilenet-v3-small", "test-efficientnet"])
def test_texts_of_a_diagram_are_legible(name: str) -> None:
    figure = draw(name)
    assert_legible(figure)
    page = figure.axes[0]
    drawn = [page.transData.transform_bbox(box.get_bbox()).extents for box in boxes(figure).values()]
    for text, area in texts(figure):
        for box in drawn:
            left, right = max(area[0], box[0]), min(area[2], box[2])
            bottom, top = max(area[1], min(box[1], box[3])), min(area[3], max(box[1], box[3]))
            assert right <= left or top <= bottom + 1, f"{text} stands on a box"


def test_a_spec_of_a_hundred_rows_and_no_classes_is_legible(write_yaml: WriteYaml) -> None:
    row = "    - {type: conv, kernel_size: 3, out_channels: 64}\n    - {type: mbconv, expand_ratio: 4, out_channels: 64}\n"
    spec = (
        "name: rows\nresolution: 64\nstem: {out_channels: 16}\nstages:\n  - {type: conv, out_channels: 8}\n  -\n"
        f"{50 * row}head: {{order: pool, num_classes: 0}}\n"
    )
    figure = draw(str(write_yaml(spec)))
    assert_legible(figure)
    assert len(boxes(figure)) == 1 + 101 + 2 * 4
    shown = Counter(text.get_text() for text in figure.axes[0].texts)
    assert shown["1 of 3×3"] == shown["1 of ×4, 3×3"] == 50


def test_ruler_names_every_resolution_that_has_room(write_yaml: WriteYaml) -> None:
    rows = "".join("  - {type: conv, stride: 2, out_channels: 8}\n" for _ in range(9))
    spec = f"name: deep\nresolution: 1024\nstem: {{out_channels: 8}}\nstages:\n{rows}head: {{order: pool}}\n"
    figure = draw(str(write_yaml(spec)))
    assert_legible(figure)
    ruler = [text for text in figure.axes[0].texts if text.get_horizontalalignment() == "right"]
    # The ground is at 226, and 512 px are 150 points high: 8 px would be 7.8 points from 16 px, 1 px 6.6 from 4 px.
    assert [text.get_text() for text in ruler] == ["px", "512", "256", "128", "64", "32", "16", "4"]
    for text in ruler[1:]:
        middle = 226 - 150 * math.sqrt(int(text.get_text()) / 512)
        assert text.get_position()[1] == pytest.approx(middle + 2.3), "half the height of a digit below the line"


@pytest.mark.parametrize("name", NETWORKS)
def test_bars_are_the_shares_of_the_costs(name: str) -> None:
    plan = resolve(load_spec(name))
    analysis = analyze(plan)
    found = boxes(draw(name))
    parts = [analysis.stem, *analysis.stages, analysis.head]
    heights = {cost: [found[f"{cost}.{i}"].get_height() for i in range(len(parts))] for cost in ("params", "MACs")}
    params, macs = [part.params for part in parts], [part.macs for part in parts]
    assert heights["params"] == pytest.approx([sum(heights["params"]) * cost / sum(params) for cost in params])
    assert heights["MACs"] == pytest.approx([sum(heights["MACs"]) * cost / sum(macs) for cost in macs])
    assert sum(heights["params"]) == pytest.approx(sum(heights["MACs"])), "one scale for both"
    assert max(heights["params"] + heights["MACs"]) == pytest.approx(24), "the strip is 44 points high"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_blocks_have_the_colour_of_their_type(theme: str) -> None:
    plan = resolve(load_spec("mobilenetv4-conv-medium"))
    found = boxes(draw("mobilenetv4-conv-medium", theme))
    for block in plan.blocks:
        assert to_hex(found[block.path].get_facecolor()) == THEMES[theme].blocks[block.type]
    types = {get_args(row.model_fields["type"].annotation)[0] for row in get_args(AnyRow)}
    assert types < THEMES[theme].blocks.keys()


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_contrasts(theme: object) -> None:
    """At least 4.5 for text and 3 for what is drawn (WCAG 2.2, 1.4.3 and 1.4.11), also on the bands."""
    for background in (theme.background, theme.band):
        assert min(contrast(color, background) for color in (theme.ink, theme.muted)) >= 4.5
        assert min(contrast(color, background) for color in theme.blocks.values()) >= 3
    assert min(contrast(color, theme.background) for color in theme.lines) >= 3
    assert len(set(theme.blocks.values())) == len(theme.blocks)


def contrast(color: str, background: str) -> float:
    light, dark = sorted((luminance(color), luminance(background)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


RULES = {
    rule: [Scaled(phi / 2, 1.2**phi, 1.1**phi, 224 + 8 * phi, 10**6, round(4e8 * growth**phi), 7 * 10**6) for phi in range(9)]
    for rule, growth in {"compound": 1.4, "depth": 1.1, "width": 1.101, "resolution": 1.15}.items()
}  # fmt: skip
CHOSEN = replace(RULES["compound"][3], phi=1.6)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_of_a_sweep_are_the_variants(theme: str) -> None:
    figure = plot_sweep(RULES, "macs", {"macs": 1e9, "params": 5}, theme, CHOSEN, "efficientnet-b0")
    axes = figure.axes[0]
    for rule, line in zip(RULES, axes.lines, strict=False):
        assert line.get_xydata().tolist() == [[variant.phi, variant.macs] for variant in RULES[rule]]
    marked = {line.get_gid(): line for line in axes.lines}
    assert set(marked["budget"].get_ydata()) == {1e9}
    assert marked["chosen"].get_xydata().tolist() == [[1.6, CHOSEN.macs]]
    shown = [text for text, _ in texts(figure)]
    assert {*RULES, "budget 1.000 G", "φ", "MACs", "efficientnet-b0: MACs over φ"} <= set(shown)
    assert "φ = 1.6: 1.098 G MACs\ndepth ×1.73, width ×1.33, 248 px" in shown
    assert {"500 M", "1 G", "2 G", "5 G"} <= set(shown)
    assert axes.get_yscale() == "log"
    assert to_hex(figure.get_facecolor()) == THEMES[theme].background
    assert (
        len({line.get_color() for line in axes.lines[:4]}) == len({line.get_marker() for line in axes.lines[:4]}) == 4
    )
    assert_legible(figure)


def test_costs_that_hardly_differ_start_at_zero() -> None:
    axes = plot_sweep({"resolution": RULES["resolution"]}, "params", {"macs": 1e9}).axes[0]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim() == pytest.approx((0, 1.1e6))
    assert len(axes.lines) == 1, "the budget is of another cost"


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_a_sweep_of_one_variant_and_of_many(count: int) -> None:
    variants = [replace(CHOSEN, phi=i / count, macs=10**9 + i) for i in range(count)]
    figure = plot_sweep(dict.fromkeys(RULES, variants), "macs", {"macs": 1e9}, chosen=variants[-1])
    assert_legible(figure)


def test_published_points_are_those_of_the_files() -> None:
    points = {point.name: point for point in published_points()}
    root = Path(__file__).parent.parent / "archspecs"
    written = {
        file.stem: re.search(r"^published: .*top1: ([\d.]+)", file.read_text(), re.M) for file in root.rglob("*.yaml")
    }
    assert {name: point.top1 for name, point in points.items()} == {
        name: float(found[1]) for name, found in written.items() if found
    }
    assert points["efficientnet-b0"] == Point("efficientnet-b0", "efficientnet", 385814752, 5288548, 77.1)
    assert points["efficientnet-lite0"].family == "efficientnet-lite"


def test_accuracy_shows_and_names_every_point() -> None:
    points = published_points()
    figure = plot_accuracy(points, "dark")
    axes = figure.axes[0]
    drawn = sorted((x, y) for line in axes.lines for x, y in line.get_xydata().tolist())
    assert drawn == sorted((point.macs, point.top1) for point in points)
    assert axes.get_xscale() == "log"
    assert len(axes.lines) == len({point.family for point in points})
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == len(axes.lines)
    named = {label.xy: label.get_text() for label in axes.texts}
    assert len(axes.texts) == len(points)
    for point in points:
        assert point.name.endswith(named[point.macs, point.top1])
    short = {"b0", "b7", "lite0", "small-075", "s", "conv-small"}
    assert short | {"efficientnet-l2", "efficientnet-lite4", "semnasnet-100"} <= {*named.values()}
    assert_legible(figure)
    assert_near(figure)


def assert_near(figure: Figure) -> None:
    """No label covers a marker; each is within 12 points of its own, or a line leads there."""
    axes = figure.axes[0]
    areas = [area for _, area in texts(figure)[: len(axes.texts)]]
    spots = [axes.transData.transform(label.xy) for label in axes.texts]
    for label, area, own in zip(axes.texts, areas, spots, strict=True):
        gaps = [math.dist(spot, np.clip(spot, area[:2], area[2:])) * 72 / 100 for spot in spots]
        assert min(gaps) > 2.5, label
        assert label.arrow_patch or math.dist(own, np.clip(own, area[:2], area[2:])) * 72 / 100 < 12, label


def test_svg_is_well_formed_and_the_same_each_time(tmp_path: Path) -> None:
    figure = draw("efficientnet-b0")
    for name in ("a.svg", "b.svg"):
        save(figure, tmp_path / name)
    written = (tmp_path / "a.svg").read_bytes()
    assert written == (tmp_path / "b.svg").read_bytes()
    root = ElementTree.fromstring(written)
    names = {element.get("id") for element in root.iter()}
    assert {block.path for block in resolve(load_spec("efficientnet-b0")).blocks} <= names
    assert root.findtext("{http://www.w3.org/2000/svg}title") == "efficientnet-b0"
    assert b"<text" not in written, "text as paths"
    assert b"<dc:date" not in written
    save(plot_sweep(RULES, "macs", {"macs": 1e9}, chosen=CHOSEN), tmp_path / "sweep.svg")
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.svg", "sweep.svg")]
    code = (
        "import sys, effnet_builder; assert 'matplotlib' not in sys.modules\n"
        "from test_plotting import *\n"
        f"save(draw('efficientnet-b0'), {str(tmp_path / 'c.svg')!r})\n"
        f"save(plot_sweep(RULES, 'macs', {{'macs': 1e9}}, chosen=CHOSEN), {str(tmp_path / 'd.svg')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
    assert [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("c.svg", "d.svg")] == digests


def test_png_has_the_background_of_its_theme(tmp_path: Path) -> None:
    figure = draw("efficientnet-b0", "dark")
    save(figure, tmp_path / "a.PNG")
    save(figure, tmp_path / "b.png")
    assert (tmp_path / "a.PNG").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.PNG") as image:
        assert image.size == tuple(int(200 * side) for side in figure.get_size_inches())
        assert image.convert("RGBA").getpixel((3, 3)) == (0x15, 0x18, 0x1B, 0xFF)
        assert image.text["Title"] == "efficientnet-b0"


def test_pictures_leave_the_settings_of_matplotlib_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save(draw("efficientnet-b0"), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["a.pdf", "a.jpeg", "a", "svg", "a.svg.gz"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"a picture is written as \.svg or \.png, not as '.*'$"):
        save(draw("efficientnet-b0"), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["os.replace", "os.fsync", "matplotlib.figure.Figure.savefig"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    figure = draw("test-efficientnet")
    (tmp_path / "old.svg").write_text("old")
    monkeypatch.setattr(broken, fail)
    for name in ("old.svg", "new.svg"):
        with pytest.raises(OSError, match="No space left"):
            save(figure, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["old.svg"]
    assert (tmp_path / "old.svg").read_text() == "old"


def test_a_folder_that_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(draw("test-efficientnet"), tmp_path / "none" / "a.svg")
