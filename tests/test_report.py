"""The report of a training: one file that needs nothing else, says every number, and takes no name for markup."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effnet_builder import analyze, load_spec, resolve
from effnet_builder.arch.summary import render_summary
from effnet_builder.escaping import printable
from effnet_builder.plotting import to_svg, training_pictures
from effnet_builder.plotting.diagram import diagram
from effnet_builder.plotting.style import THEMES
from effnet_builder.report import Picture, ReportData, Sample, misclassified, render_report
from effnet_builder.report.html import _duration, to_png
from effnet_builder.train.metrics import hardest, measure
from effnet_builder.train.predictions import Predictions, predict_batch

PAGE = Path(__file__).parent.parent / "effnet_builder" / "report" / "report.html.j2"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements and the texts of a page; every element must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def addresses(self) -> Iterator[str]:
        for _, attributes in self.elements:
            yield from (
                value or "" for name, value in attributes.items() if name in {"src", "href", "srcset", "data", "action"}
            )


def predictions(count: int = 200, classes: int = 7) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 2
    return predict_batch(logits, labels)


HISTORY = [
    {"epoch": epoch, "lr": 0.1 / epoch, "train_loss": 2 / epoch, "train_accuracy": 0.5, "valid_loss": 1.23456,
     "valid_accuracy": [0.5, 0.71234, 0.7][epoch - 1], "valid_top5": 0.9, "ema_loss": None, "ema_accuracy": None,
     "seconds": 12.34, "images_per_second": 1234.5, "wait_share": 0.034, "skipped": 0}
    for epoch in (1, 2, 3)
]  # fmt: skip


def report(classes: int = 7) -> ReportData:
    return ReportData(
        title="b0-digits-1", date="2026-11-23", network="efficientnet-b0", data="digits", params=5288548, macs=385814752,
        seconds=3725, metrics=measure(predictions(classes=classes), classes), classes=[f"class {i}" for i in range(classes)],
        history=HISTORY, summary="part  params\nstem  928", spec="name: b0\n", recipe="name: digits\n",
        environment={"torch": "2.15.0", "threads": 2}, commands={"Resume": "train-arch --resume runs/b0-digits-1"},
        facts={"without the average": "70.10 %"},
    )  # fmt: skip


def test_the_page_says_every_number() -> None:
    data = report()
    page = Page(render_report(data))
    text = " ".join(" ".join(page.texts).split())
    metrics = data.metrics
    for number in (metrics.top1, metrics.top5, metrics.calibration_error, metrics.macro_f1, metrics.balanced_accuracy):
        assert f"{100 * number:.2f} %" in text
    for shown in (f"{metrics.loss:.4f}", "5.289 M", "385.8 M", "1 h 2 min", "2026-11-23", "b0-digits-1", "efficientnet-b0",
                  "without the average 70.10 %", "stem 928", "name: b0", "name: digits", "torch 2.15.0", "threads 2",
                  "train-arch --resume runs/b0-digits-1"):  # fmt: skip
        assert shown in text
    for name, each in zip(data.classes, metrics.classes, strict=True):
        assert (
            f"{name} {100 * each.f1:.2f} % {100 * each.precision:.2f} % {100 * each.recall:.2f} % {each.support}"
            in text
        )
    f1 = [each.f1 for each in sorted(metrics.classes, key=lambda each: each.f1)]
    assert [text.index(f"{100 * each:.2f} %", text.index("worst")) for each in f1] == sorted(
        text.index(f"{100 * each:.2f} %", text.index("worst")) for each in f1
    ), "the worst first"
    assert "2 0.05 1.0000 50.00 % 1.2346 71.23 % 90.00 % 12.3 1,234 3.40 % 0" in text
    assert "average: loss" not in text, "a column of nothing is left out"
    best = [attributes for attributes in page.of("tr") if attributes.get("class") == "best"]
    assert len(best) == 1
    confusion = metrics.confusion.clone().fill_diagonal_(0)
    row, column = divmod(int(confusion.argmax()), 7)
    assert f"class {row} class {column} {confusion.max()} " in text


def test_the_page_needs_nothing_else() -> None:
    data = report()
    spec = resolve(load_spec("test-efficientnet"))
    pictures = training_pictures(data.history, data.metrics, data.classes)
    pictures["network"] = Picture(to_svg(diagram(spec, analyze(spec))), to_svg(diagram(spec, analyze(spec), "dark")))
    samples = (Sample(to_png(torch.zeros(1, 4, 4, dtype=torch.uint8)), "a", "b", 0.9),)
    summary = render_summary(spec, analyze(spec))
    html = render_report(replace(data, pictures=pictures, samples=samples, summary=summary))
    page = Page(html)
    addresses = list(page.addresses())
    assert len(addresses) == 2 * 4 + 1
    assert all(address.startswith("data:image/") for address in addresses)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert "url(" not in html
    assert "@import" not in html
    policy = next(each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    drawn = [base64.b64decode(address.partition(",")[2]).decode() for address in addresses if "svg" in address[:20]]
    assert sorted(drawn) == sorted(side for picture in pictures.values() for side in (picture.light, picture.dark))
    for svg in drawn:
        ElementTree.fromstring(svg)
    images = [image for image in page.of("img") if "drawing" in (image.get("class") or "")]
    assert len(images) == 8
    for image in images:
        assert image["alt"]
        assert image["class"].split()[1] in {"light", "dark"}
    assert "has no pictures" not in html
    assert render_report(replace(data, pictures=pictures, samples=samples, summary=summary)) == html


def test_the_colours_are_those_of_the_pictures() -> None:
    template = PAGE.read_text()
    for theme, start in (("light", ":root {"), ("dark", "  :root {")):
        rule = next(line for line in template.splitlines() if line.startswith(start))
        colors = THEMES[theme]
        assert (
            f"--background: {colors.background}; --ink: {colors.ink}; --muted: {colors.muted}; --line: {colors.grid};"
            in rule
        )
        assert f"--band: {colors.band}; --accent: {colors.line(0)} }}" in rule


EVIL = "<script>alert(1)</script>"


def test_no_name_is_markup() -> None:
    names = [EVIL, "[red]", '" onload="x', "</td><h1>", "a & b", "{{ 7 * 7 }}", "$x$"]
    data = report()
    sample = Sample(b"png", EVIL, '"><img src=x onerror=alert(1)>', 0.5)
    evil = replace(
        data, title=EVIL, date=EVIL, network=EVIL, data=EVIL, classes=names, summary=f"</pre>{EVIL}", spec=f"</pre>{EVIL}",
        recipe=f"</details>{EVIL}", environment={EVIL: EVIL}, commands={EVIL: EVIL}, facts={EVIL: EVIL}, samples=[sample],
        history=[{**HISTORY[0], EVIL: 1.0}], pictures=training_pictures(HISTORY, data.metrics, names),
    )  # fmt: skip
    plain = replace(
        evil, **{field: getattr(data, field) for field in ("title", "classes", "summary", "spec", "recipe")}
    )
    page, other = Page(render_report(evil)), Page(render_report(plain))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in other.elements]
    assert {key for _, attributes in page.elements for key in attributes} <= {
        "lang", "charset", "name", "content", "http-equiv", "class", "alt", "src", "scope",
    }  # fmt: skip
    text = "\n".join(page.texts)
    assert text.count(EVIL) >= 14
    for name in names:
        assert name in text
    assert "49" not in [text.strip() for text in page.texts]


@settings(max_examples=40)
@given(st.text(st.characters(), min_size=1, max_size=30))
def test_any_name_is_shown_or_escaped(name: str) -> None:
    html = render_report(replace(report(), classes=[name, *"abcdef"], title=name))
    html.encode()
    shown = printable(name)
    assert any(text == shown for text in Page(html).texts)


def test_long_tables_are_folded() -> None:
    classes = 100
    metrics = measure(predictions(3000, classes), classes)
    rows = [{**HISTORY[0], "epoch": epoch, "valid_accuracy": 0.5 + 0.001 * epoch} for epoch in range(1, 41)]
    data = replace(report(), metrics=metrics, classes=[f"name-{i}" for i in range(classes)], history=rows)
    text = " ".join(" ".join(Page(render_report(data)).texts).split())
    assert "All 40 epochs; the best one is 40" in text
    assert "The other 70 classes" in text
    assert all(text.count(f"name-{i} ") >= 1 for i in range(classes))
    short = render_report(report())
    assert "The other" not in short
    assert "All 3 epochs" not in short


def test_without_pictures_epochs_and_mistakes() -> None:
    right = Predictions(torch.tensor([0]), torch.zeros(1), torch.tensor([[0, 1]]), torch.tensor([[1.0, 0.0]]))
    data = replace(report(), history=[], metrics=measure(right, 2), classes=["a", "b"])
    text = " ".join(" ".join(Page(render_report(data)).texts).split())
    assert "This report has no pictures: they need matplotlib ( pip install 'effnet_builder[plot]' )." in text
    assert "Training" not in text
    assert "frequent mistakes" not in text
    assert "Misclassified" not in text
    assert "top-5" not in text, "of two classes it is 1"


def test_a_picture_without_a_place_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"no place for a picture 'loss'; it has for curves, confusion,"):
        render_report(replace(report(), pictures={"loss": Picture("<svg/>", "<svg/>")}))


def test_numbers_that_are_not_finite() -> None:
    rows = [{**HISTORY[0], "train_loss": float("nan"), "valid_loss": float("inf")}]
    assert render_report(replace(report(), history=rows)).count("<td>not finite</td>") == 2


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.99, "1 min 0 s"),
        (60, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (90061, "25 h 1 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert _duration(seconds) == shown


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (5, "RGB")])
def test_images_are_those_that_went_wrong(channels: int, mode: str) -> None:
    found = predictions(50)
    images = torch.randint(0, 256, (50, channels, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    index = hardest(found, 4)
    samples = misclassified(found, index, images[index], [f"class {i}" for i in range(7)])
    wrong = sorted((i for i in range(50) if found.top[i, 0] != found.labels[i]), key=lambda i: -found.losses[i].item())[
        :4
    ]
    assert len(samples) == len(wrong) == 4
    for sample, i in zip(samples, wrong, strict=True):
        assert (sample.truth, sample.predicted) == (f"class {found.labels[i]}", f"class {found.top[i, 0]}")
        assert sample.probability == found.probabilities[i, 0].item()
        with Image.open(BytesIO(sample.png)) as image:
            assert image.mode == mode
            expected = images[i, 0] if mode == "L" else images[i, :3].permute(1, 2, 0)
            assert np.array_equal(np.asarray(image), expected.numpy())


def test_a_report_needs_no_matplotlib() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import effnet_builder.report as r\n"
        "from effnet_builder.train.metrics import measure\n"
        "from effnet_builder.train.predictions import predict_batch\n"
        "import torch\n"
        "p = predict_batch(torch.eye(3), torch.tensor([0, 1, 1]))\n"
        "samples = r.misclassified(p, torch.tensor([2]), torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 'abc')\n"
        "print(r.render_report(r.ReportData('t', 'd', 'n', 'd', 1, 1, 1.0, measure(p, 3), 'abc', [], '', '', '', {}, {}, samples=samples)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "has no pictures" in result.stdout
    assert "taken for" in result.stdout
