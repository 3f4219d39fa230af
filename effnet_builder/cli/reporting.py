"""The report of a finished run: pictures of it, and one HTML file with everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import torch

from ..arch.analysis import analyze
from ..arch.summary import render_summary
from ..config import in_short, of_system
from ..escaping import path_argument, shell_command
from ..files import write_atomic
from ..report import Picture, ReportData, misclassified, render_report
from ..train.loggers import EpochMetrics
from ..train.metrics import Metrics, hardest
from ..train.predictions import Predictions
from ..train.run import Run
from .compose import Material
from .console import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAMPLES = 24


def write_report(
    run: Run, material: Material, history: list[EpochMetrics], predictions: Predictions, metrics: Metrics,
    written: dict[str, Any],
) -> None:  # fmt: skip
    """Write `report.html`, and if matplotlib is installed curves, confusion and mistakes as files. Raises OSError.

    A picture that fails is a warning; the other pictures and the report are written.
    """
    plan, dataset = material.plan, material.dataset
    analysis = analyze(plan)
    rows = [{name: value for name, value in asdict(epoch).items() if name != "step"} for epoch in history]
    wrong = hardest(predictions, _SAMPLES)
    images = dataset.test.read(wrong).cpu()  # they may be stored on the device
    samples = misclassified(predictions, wrong, images, dataset.classes)
    data = ReportData(
        title=f"{plan.name} on {dataset.name}",
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        network=plan.name,
        data=dataset.name,
        params=analysis.total.params,
        macs=analysis.total.macs,
        seconds=sum(epoch.seconds for epoch in history),
        metrics=metrics,
        classes=dataset.classes,
        history=rows,
        summary=render_summary(plan, analysis),
        spec=plan.spec.to_yaml(),
        recipe=material.recipe.to_yaml(),
        environment=written["environment"] | _git(written) | {"data": dataset.fingerprint},
        commands=_commands(run, written["order"]["data"]),
        facts={"images": dataset.kept, "recipe": material.recipe.name} | _skipped(history),
        samples=samples,
        pictures=_pictures(run, material, rows, metrics, images, wrong, predictions),
    )
    write_atomic(run.folder / "report.html", render_report(data))


def _commands(run: Run, data: str) -> dict[str, str]:
    """Commands to copy, whatever characters are in the names."""
    folder, spec, recipe = map(path_argument, (run.folder, run.spec, run.recipe))
    return {
        "evaluate": shell_command("eval-arch", folder),
        "predict": shell_command("predict-arch", folder, "IMAGE"),
        "train again": shell_command("train-arch", spec, "--recipe", recipe, "--data", data),
    }


def _skipped(history: list[EpochMetrics]) -> dict[str, str]:
    """The steps whose loss or gradient was no finite number, by epochs; nothing where there were none."""
    found, before = [], 0
    for epoch in history:
        if epoch.skipped > before:
            found.append(f"{epoch.skipped - before:,} in epoch {epoch.epoch}")
        before = epoch.skipped
    return {"skipped steps": f"{', '.join(found)}: loss or gradient no finite number"} if found else {}


def _git(written: dict[str, Any]) -> dict[str, str]:
    commit = (written.get("git") or {}).get("commit")
    return {} if commit is None else {"git": commit}


def _pictures(
    run: Run, material: Material, rows: list[dict[str, Any]], metrics: Metrics, images: torch.Tensor,
    wrong: torch.Tensor, predictions: Predictions,
) -> dict[str, Picture]:  # fmt: skip
    """Draw the pictures of the report, some of them also as files of their own."""
    try:
        from ..plotting import diagram, plot_confusion, plot_curves, plot_images, save, to_svg, training_drawings
    except ModuleNotFoundError as error:
        warn(f"no pictures: {error.name} is not installed; pip install 'effnet_builder[plot]'")
        return {}
    except Exception as error:  # of any kind: it is another library's
        warn(f"no pictures: {type(error).__name__}: {in_short(error)}")
        return {}
    plan, classes = material.plan, material.dataset.classes
    files: dict[str, Callable[[], Figure]] = {
        "curves.svg": lambda: plot_curves(rows),
        "curves.png": lambda: plot_curves(rows),
        "confusion.svg": lambda: plot_confusion(metrics.confusion.numpy(), classes),
    }
    if len(wrong):
        answers = predictions.top[wrong, 0].tolist()
        truths = predictions.labels[wrong].tolist()
        captions = [f"{classes[truth]} as {classes[answer]}" for truth, answer in zip(truths, answers, strict=True)]
        title = "Wrong with the highest loss"
        files["misclassified.png"] = lambda: plot_images(images.numpy(), captions, title=title)
    for name, draw_file in files.items():
        with _warning(name):
            save(draw_file(), run.folder / name)
    drawings = training_drawings(rows, metrics, classes)
    drawings["network"] = lambda theme: diagram(plan, analyze(plan), theme)
    pictures = {}
    for name, draw in drawings.items():
        with _warning(f"picture {name} in the report"):
            pictures[name] = Picture(to_svg(draw("light")), to_svg(draw("dark")))
    return pictures


@contextmanager
def _warning(missing: str) -> Iterator[None]:
    """Turn any failure of a picture into one warning."""
    try:
        yield
    except OSError as error:
        warn(f"no {missing}: {of_system(error)}")
    except Exception as error:  # of any kind: drawing is another library's
        warn(f"no {missing}: {type(error).__name__}: {in_short(error)}")
