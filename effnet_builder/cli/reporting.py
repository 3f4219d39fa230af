"""The report of a finished run: pictures of it, and one HTML file with everything."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import torch

from ..arch.analysis import analyze
from ..arch.summary import render_summary
from ..files import write_atomic
from ..report import Picture, ReportData, misclassified, render_report
from ..train.loggers import EpochMetrics
from ..train.metrics import Metrics, hardest
from ..train.predictions import Predictions
from ..train.run import Run
from .compose import Material
from .console import echo

_SAMPLES = 24


def write_report(
    run: Run, material: Material, history: list[EpochMetrics], predictions: Predictions, metrics: Metrics,
    written: dict[str, Any],
) -> None:  # fmt: skip
    """`report.html`, and where matplotlib is installed curves, confusion and mistakes as files. Raises OSError."""
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
        commands={
            "evaluate": f"eval-arch {run.folder}",
            "predict": f"predict-arch {run.folder} IMAGE",
            "train again": f"train-arch {run.spec} --recipe {run.recipe} --data {written['order']['data']}",
        },
        facts={"images": dataset.kept, "recipe": material.recipe.name} | _skipped(history),
        samples=samples,
        pictures=_pictures(run, material, rows, metrics, images, wrong, predictions),
    )
    write_atomic(run.folder / "report.html", render_report(data))


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
    """Those of the report; some of them also as files of their own."""
    try:
        from ..plotting import diagram, plot_confusion, plot_curves, plot_images, save, to_svg, training_pictures
    except ModuleNotFoundError as error:
        echo(f"no pictures: {error.name} is not installed; pip install 'effnet_builder[plot]'", err=True)
        return {}
    plan, classes = material.plan, material.dataset.classes
    for suffix in ("svg", "png"):
        save(plot_curves(rows), run.folder / f"curves.{suffix}")
    save(plot_confusion(metrics.confusion.numpy(), classes), run.folder / "confusion.svg")
    if len(wrong):
        answers = predictions.top[wrong, 0].tolist()
        truths = predictions.labels[wrong].tolist()
        captions = [f"{classes[truth]} as {classes[answer]}" for truth, answer in zip(truths, answers, strict=True)]
        save(
            plot_images(images.numpy(), captions, title="Wrong with the highest loss"), run.folder / "misclassified.png"
        )
    network = [to_svg(diagram(plan, analyze(plan), theme)) for theme in ("light", "dark")]
    return training_pictures(rows, metrics, classes) | {"network": Picture(*network)}
