"""The end of a run: the weights that are kept, tested, and everything that is said about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..config import of_system
from ..failures import first_line
from ..models.files import write_weights
from ..tensors import finite
from ..train.batches import epoch_batches
from ..train.checkpoint import Damaged
from ..train.engine import Diverged
from ..train.evaluation import recompute_norm_statistics
from ..train.job import Job
from ..train.loading import Loader
from ..train.metrics import Metrics, measure
from ..train.predictions import Evaluation, Predictions, predict
from ..train.run import Run
from ..train.state import State
from ..train.stopping import StopRequest
from .compose import Material
from .console import echo, warn
from .environment import environment
from .order import Order
from .reporting import write_report


def finish(run: Run, state: State, job: Job, material: Material, order: Order, stop: StopRequest) -> None:
    """Test what is kept, and write weights, result and report. Raises Stopped, Diverged, OSError."""
    recipe, dataset = job.recipe, material.dataset
    job.processes.at("testing what is kept")
    kept, epoch = _kept(run, state, job)
    how = job.evaluation
    if recipe.norm_images is not None:
        recompute_norm_statistics(kept, norm_batches(job.train, how, recipe.seed, recipe.norm_images))
    if not finite(kept.state_dict()):
        raise Diverged("the weights at the end are no finite numbers; try a lower lr")
    test = Loader(dataset.test, job.device, order.workers, order.timeout)
    predictions = predict(kept, test, how, stop)
    metrics = measure(predictions, job.num_classes)
    raw = metrics if state.average is None else measure(predict(state.model, test, how, stop), job.num_classes)
    if not job.processes.first:
        return  # what follows is the first one's alone
    if state.average is not None:
        echo(f"test accuracy without the average {raw.top1:.2%}")
    echo(f"test accuracy {metrics.top1:.2%}, loss {metrics.loss:.4f}", bold=True)
    write_weights(kept.state_dict(), material.plan, run.weights, classes=dataset.classes)
    run.write_json("evaluation.json", {"split": "test", **metrics.to_dict()})
    result = _result(state, job, epoch, metrics, raw) | {"data": order.data, "classes": list(dataset.classes)}
    run.write_json("result.json", result | environment(job.device, job.processes.count))
    if order.report:
        _report(run, material, state, predictions, metrics)


def _report(run: Run, material: Material, state: State, predictions: Predictions, metrics: Metrics) -> None:
    """Write the report of a run that is done; a failure is a warning, and costs nothing else."""
    try:
        write_report(run, material, state.history, predictions, metrics, run.read_json("run.json"))
    except OSError as error:
        warn(f"no report: {of_system(error)}")
    except Exception as error:  # of any kind: the pictures are another library's
        warn(f"no report: {type(error).__name__}: {first_line(error)}")


def norm_batches(loader: Loader, how: Evaluation, seed: int, count: int) -> Iterator[Tensor]:
    """About so many random training images, as a network sees them that is not trained."""
    batches = epoch_batches(seed, 0, len(loader.data), how.batch_size)
    for images, _, _ in loader.batches(batches[: max(1, count // len(batches[0]))]):
        x = how.inputs.evaluate(images)
        yield x.contiguous(memory_format=torch.channels_last) if how.channels_last else x


def _kept(run: Run, state: State, job: Job) -> tuple[nn.Module, int]:
    """The average, where there is one, or the network itself; of the last epoch, or of the best. And which epoch."""
    module = state.model if state.average is None else state.average.module
    if job.recipe.keep == "last" and job.recipe.early_stop is None:
        return module, len(state.history)
    best = max(state.history, key=lambda metrics: metrics.kept_accuracy)
    if best.step != state.step:
        try:
            checkpoint = run.checkpoints.at(best.step)
        except Damaged as error:
            echo(f"{error}; the weights of the last epoch are kept instead of the best", err=True)
            return module, len(state.history)
        module.load_state_dict(checkpoint.part("model." if state.average is None else "ema."))
        echo(f"keeping the weights of epoch {best.epoch}, whose validation accuracy is the best")
    return module, best.epoch


def _result(state: State, job: Job, epoch: int, metrics: Metrics, raw: Metrics) -> dict[str, Any]:
    kept = state.history[epoch - 1]
    return {
        "test_accuracy": metrics.top1,
        "test_top5": metrics.top5,
        "test_loss": metrics.to_dict()["loss"],
        "test_calibration_error": metrics.calibration_error,
        "raw_test_accuracy": raw.top1,
        "test_images": metrics.count,
        "valid_accuracy": kept.kept_accuracy,
        "epochs": len(state.history),
        "kept_epoch": epoch,
        "steps": state.step,
        "skipped_steps": state.history[-1].skipped,
        "train_seconds": sum(epoch.seconds for epoch in state.history),
    }
