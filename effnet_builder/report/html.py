"""The report of a training: one HTML file that needs nothing else, neither network nor script. Needs no matplotlib."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from ..arch.summary import si
from ..escaping import printable, printable_lines

if TYPE_CHECKING:
    from torch import Tensor

    from ..train.metrics import Metrics
    from ..train.predictions import Predictions

Row: TypeAlias = Mapping[str, float | None]
"""What one epoch came to, by the names of the columns of metrics.csv; what is missing or None is not shown."""

PICTURES = ("curves", "confusion", "reliability", "network")
_SHOWN = 30  # rows of a table; more of them are folded away
_HEADINGS = {
    "lr": "learning rate",
    "train_loss": "training loss",
    "train_accuracy": "training accuracy",
    "valid_loss": "validation loss",
    "valid_accuracy": "validation accuracy",
    "valid_top5": "validation top-5",
    "ema_loss": "average: loss",
    "ema_accuracy": "average: accuracy",
    "wait_share": "waiting for images",
}


@dataclass(frozen=True)
class Picture:
    """One picture as SVG, for light and for dark pages."""

    light: str
    dark: str


@dataclass(frozen=True)
class Sample:
    """An image as PNG that was taken for another class, and how probable that was."""

    png: bytes
    truth: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class ReportData:
    """All that a report says. Texts are shown as they are: nothing in them is markup.

    `facts` come below the headline figures, `environment` and `commands` are tables, all of them name to value.
    `pictures` are some of PICTURES; without any the report says why.
    """

    title: str
    date: str
    network: str
    data: str
    params: int
    macs: int
    seconds: float
    metrics: Metrics
    classes: Sequence[str]
    history: Sequence[Row]
    summary: str
    spec: str
    recipe: str
    environment: Mapping[str, object]
    commands: Mapping[str, str]
    facts: Mapping[str, str] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    pictures: Mapping[str, Picture] = field(default_factory=dict)


def render_report(data: ReportData) -> str:
    """The report as HTML. Raises ValueError for pictures that have no place in it."""
    unknown = sorted(set(data.pictures) - set(PICTURES))
    if unknown:
        raise ValueError(f"a report has no place for a picture {unknown[0]!r}; it has for {', '.join(PICTURES)}")
    text = _template().render(
        report=data,
        metrics=data.metrics,
        columns=_columns(data.history),
        best=_best(data.history),
        classes=_worst_first(data),
        mistakes=_mistakes(data),
        shown=_SHOWN,
    )
    return text.encode(errors="backslashreplace").decode()  # names of files may hold halves of characters


def misclassified(
    predictions: Predictions, index: Tensor, images: Tensor, classes: Sequence[str]
) -> tuple[Sample, ...]:
    """The images uint8 (n, C, H, W) that these n predictions are of, with what they are and were taken for."""
    return tuple(
        Sample(
            to_png(image),
            classes[int(predictions.labels[i])],
            classes[int(predictions.top[i, 0])],
            float(predictions.probabilities[i, 0]),
        )
        for i, image in zip(index.tolist(), images, strict=True)
    )


def to_png(image: Tensor) -> bytes:
    """An image of uint8 (C, H, W): of one or two channels the first in grey, of more the first three as colours."""
    from PIL import Image

    pixels = image.cpu().numpy()
    shown = pixels[0] if len(pixels) < 3 else pixels[:3].transpose(1, 2, 0)
    written = BytesIO()
    Image.fromarray(shown).save(written, "png")
    return written.getvalue()


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalized
    )
    environment.filters |= {"percent": _percent, "duration": _duration, "cell": _cell, "si": si, "uri": _uri}
    environment.filters |= {"heading": _heading, "printable": printable}
    return environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))


def _finalized(value: object) -> object:
    """Escape control characters in each text of the template, but for line feeds; jinja2 then escapes markup."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _columns(history: Sequence[Row]) -> list[str]:
    """The columns that have a number, in the order of the rows."""
    filled = dict.fromkeys(name for row in history for name, value in row.items() if value is not None)
    return list(filled)


def _best(history: Sequence[Row]) -> float | None:
    """The first epoch with the highest validation accuracy, of the average where there is one."""
    name = "ema_accuracy" if any(row.get("ema_accuracy") is not None for row in history) else "valid_accuracy"
    rows = [(value, row["epoch"]) for row in history if (value := row.get(name)) is not None]
    return max(rows, key=lambda row: row[0])[1] if rows else None


def _worst_first(data: ReportData) -> list[tuple[str, Any]]:
    named = zip(data.classes, data.metrics.classes, strict=True)
    return sorted(named, key=lambda each: (each[1].support == 0, each[1].f1, -each[1].support))


def _mistakes(data: ReportData) -> list[tuple[str, str, int, float]]:
    """The ten most frequent: true and predicted class, how often, and as a share of the true class."""
    from ..train.metrics import most_confused

    return [
        (data.classes[true], data.classes[predicted], count, count / data.metrics.classes[true].support)
        for true, predicted, count in most_confused(data.metrics.confusion, 10)
    ]


def _heading(name: str) -> str:
    return _HEADINGS.get(name, name.replace("_", " "))


def _cell(value: float | None, name: str) -> str:
    """A number of the table of epochs, written as its column wants it."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "not finite"
    if name.endswith(("accuracy", "top5", "share")):
        return _percent(value)
    if name in ("epoch", "skipped", "images_per_second"):
        return f"{value:,.0f}"
    return f"{value:.1f}" if name == "seconds" else f"{value:.4f}" if name.endswith("loss") else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _duration(seconds: float) -> str:
    """`42.3 s`, `12 min 5 s`, `3 h 12 min`."""
    if seconds < 59.95:  # from there on one digit would make it 60.0
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _uri(content: bytes | str, kind: str) -> str:
    """A file as an address that holds all of it."""
    return f"data:{kind};base64,{b64encode(content.encode() if isinstance(content, str) else content).decode()}"
