"""The training loop: receives a module, data and a recipe, and knows no architecture.

The order of the images, their augmentation, dropout and the learning rate follow from seed, epoch and step alone, so a
run that goes on from a checkpoint is, on a CPU, bit for bit the run that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Protocol

from torch import Tensor

from ..failures import is_out_of_memory
from .batches import epoch_batches, shares
from .images import DataError
from .job import Job
from .loading import Batch, Loader
from .loggers import EpochMetrics, StepMetrics
from .metrics import measure
from .predictions import predict
from .recipe import Recipe
from .state import Clock, State
from .step import Rows, train_step
from .stopping import Stopped, StopRequest

_MIN_SCALE = 1e-4  # of the loss in fp16, which starts at 65,536: thirty steps in a row that were not made


class Saver(Protocol):
    """Keeps states, for this run and for the one that goes on from it."""

    def save(self, state: State) -> None:
        """Keep the state."""

    def restore(self, state: State) -> None:
        """Make the state the last one that was kept."""


class Diverged(Exception):  # noqa: N818
    """Loss or gradients are no longer finite numbers."""


class _NotFinite(Exception):  # noqa: N818
    """As many steps in a row were skipped as the recipe allows."""


def fit(state: State, job: Job, saver: Saver | None, stop: StopRequest) -> None:
    """Train from where the state is to the end of the recipe, and validate after each epoch.

    Raises Stopped where the process is told to stop, and DataError, both with the state saved; and Diverged where steps
    have no finite loss or gradient, also after going back to the last checkpoint once.
    """
    for logger in job.loggers:
        logger.go_back(state.step, state.history)
    if saver is not None and state.step == 0:
        _save(state, job, saver)  # so that a disk that cannot be written is found before the first step
    while not finished(job.recipe, state.history):
        try:
            train_one_epoch(state, job, saver, stop)
            _validate(state, job, saver, stop)
        except _NotFinite:
            _go_back(state, job, saver)
            continue
        except Stopped:
            if saver is not None:
                _save(state, job, saver)
            raise
        except DataError:
            if saver is not None:
                saver.save(state)  # the other processes are elsewhere, and there is none to wait for
            raise
        if saver is not None:
            _save(state, job, saver)


def finished(recipe: Recipe, history: Sequence[EpochMetrics]) -> bool:
    """Whether all epochs are done, or so many without a better accuracy that the recipe stops early."""
    if len(history) >= recipe.epochs:
        return True
    if recipe.early_stop is None or not history:
        return False
    best, since = -1.0, 0
    for metrics in history:
        better = metrics.kept_accuracy > best + recipe.early_stop.min_delta
        best, since = (metrics.kept_accuracy, 0) if better else (best, since + 1)
    return since >= recipe.early_stop.patience


def train_one_epoch(state: State, job: Job, saver: Saver | None, stop: StopRequest) -> None:
    """The steps of the current epoch that are not done yet."""
    recipe, epoch = job.recipe, len(state.history)
    batches = epoch_batches(recipe.seed, epoch, len(job.train.data), recipe.batch_size)
    done = state.step - epoch * len(batches)
    rows = shares(len(batches[0]), job.processes.count)[job.processes.rank]
    stage = job.stage(epoch)
    stage.set_dropout(state.model)
    state.model.train()
    with closing(_timed(state.clock, job.train, [batch[rows] for batch in batches[done:]])) as loaded:
        for images, labels, index in loaded:
            batch = Rows(images, labels, index, rows, len(batches[0]), epoch)
            job.processes.at("training", state.step + 1)
            norm = train_step(state, job, stage, batch)
            state.step += 1
            step = state.step - epoch * len(batches)
            for logger in job.loggers:
                logger.tick(step, len(batches))
            report = state.step % job.log_every == 0
            save = saver is not None and job.save_every is not None and state.step % job.save_every == 0
            if job.device.type == "cpu" or report or save:  # elsewhere, to look is to wait for the device
                _check(state, recipe)
            if report:
                _report(state, job, epoch, norm)
            if saver is not None and save:
                _save(state, job, saver)
            job.processes.at("asking whether to stop")
            if stop.anywhere(job.processes):
                raise Stopped
            job.processes.at("waiting for images", state.step + 1)
    _check(state, recipe)


def _validate(state: State, job: Job, saver: Saver | None, stop: StopRequest) -> None:
    """End the epoch. If the evaluation runs out of memory, save what was trained before the error is raised."""
    try:
        return end_epoch(state, job, stop)
    except (RuntimeError, MemoryError) as error:
        if saver is None or not is_out_of_memory(error):
            raise
        failed = error.with_traceback(None)  # its frames hold the tensors of the evaluation
    saver.save(state)  # as for a DataError: the other processes are elsewhere
    raise failed


def end_epoch(state: State, job: Job, stop: StopRequest) -> None:
    """Validate, and write the epoch into the history. Raises Stopped."""
    start = time.perf_counter()
    job.processes.at("evaluating", state.step)
    how = job.evaluation
    raw = measure(predict(state.model, job.valid, how, stop), job.num_classes)
    average = None
    if state.average is not None:
        average = measure(predict(state.average.module, job.valid, how, stop), job.num_classes)
    loss, right, images = state.counters.epoch.tolist()
    trained = max(images, 1)
    metrics = EpochMetrics(
        epoch=len(state.history) + 1,
        step=state.step,
        resolution=job.stage(len(state.history)).inputs.resolution,
        # What the last step had; not the optimizer's, which knows none where the run goes on with this evaluation.
        lr=state.optimizer.param_groups[0]["initial_lr"] * job.lr_factor(state.step - 1),
        train_loss=loss / trained,
        train_accuracy=right / trained,
        valid_loss=raw.loss,
        valid_accuracy=raw.top1,
        valid_top5=raw.top5,
        ema_loss=None if average is None else average.loss,
        ema_accuracy=None if average is None else average.top1,
        ema_top5=None if average is None else average.top5,
        skipped=int(state.counters.skipped[0]),
        seconds=state.clock.training + time.perf_counter() - start,
        images_per_second=trained / max(state.clock.training, 1e-9),
        wait_share=state.clock.waiting / max(state.clock.training, 1e-9),
    )
    state.history.append(metrics)
    state.counters.epoch.zero_()
    state.counters.window.zero_()
    state.clock = Clock()
    for logger in job.loggers:
        logger.epoch(metrics)


def _timed(clock: Clock, loader: Loader, batches: Sequence[Tensor]) -> Generator[Batch, None, None]:
    """The batches, with the time that passes from one to the next on the clock."""
    start, waited = time.perf_counter(), loader.waited
    with closing(loader.batches(batches)) as loaded:
        for item in loaded:
            yield item
            now = time.perf_counter()
            clock.training += now - start
            clock.waiting += loader.waited - waited
            start, waited = now, loader.waited


def _check(state: State, recipe: Recipe) -> None:
    if state.counters.skipped[2] >= recipe.skip_limit:
        raise _NotFinite
    if state.scaler.is_enabled() and state.scaler.get_scale() < _MIN_SCALE:
        raise Diverged(
            f"precision fp16: the gradients of so many steps were not finite, up to step {state.step:,}, that the loss "
            f"scale fell to {state.scaler.get_scale():.1g}; such steps change nothing; use bf16 or fp32, or a lower lr"
        )


def _go_back(state: State, job: Job, saver: Saver | None) -> None:
    """To the last checkpoint, once."""
    if saver is None or state.went_back:
        lr = job.recipe.optimizer.base_lr(job.recipe.batch_size)
        again = ", again" if state.went_back else ""
        raise Diverged(
            f"{job.recipe.skip_limit} steps in a row, up to step {state.step:,}, had a loss or gradient that is no "
            f"finite number{again}; try a lower lr than {lr:g}"
        )
    saver.restore(state)
    state.counters.skipped[1:].zero_()  # it may have been saved within such a row
    state.went_back = True
    _save(state, job, saver)
    for logger in job.loggers:
        logger.go_back(state.step, state.history)


def _save(state: State, job: Job, saver: Saver) -> None:
    """Keep the state; the processes that write nothing wait until it is written, so long as the disk needs."""
    job.processes.at("saving")
    saver.save(state)
    job.processes.meet()


def _report(state: State, job: Job, epoch: int, norm: Tensor) -> None:
    """Tell the loggers of the steps since the last report; here the host waits for the device."""
    loss, right, images = state.counters.window.tolist()
    state.counters.window.zero_()
    trained, clock = state.step - epoch * job.steps_per_epoch, state.clock
    metrics = StepMetrics(
        step=state.step,
        epoch=epoch + 1,
        loss=loss / max(images, 1),
        accuracy=right / max(images, 1),
        lr=state.optimizer.param_groups[0]["lr"],
        grad_norm=float(norm),
        skipped=int(state.counters.skipped[0]),
        images_per_second=trained * job.recipe.batch_size / max(clock.training, 1e-9),
        wait_share=clock.waiting / max(clock.training, 1e-9),
    )
    for logger in job.loggers:
        logger.step(metrics)
