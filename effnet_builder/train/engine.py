"""The training loop: receives a module, data and a recipe, and knows no architecture.

The order of the images, their augmentation, dropout and the learning rate follow from seed, epoch and step alone, so a
run that goes on from a checkpoint is, on a CPU, bit for bit the run that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import epoch_batches, micro_batches, shares, steps_per_epoch
from .distill import Teacher, distillation_loss
from .draws import Draws, random_seed
from .loading import Batch, Loader
from .loggers import EpochMetrics, Logger, StepMetrics
from .metrics import measure
from .mixing import mix_batch
from .norms import NormStatistics
from .optim import clip_gradients, grad_norm, set_lr
from .precision import autocast
from .predictions import Evaluation, predict
from .processes import ALONE, Processes
from .recipe import Normalize, Recipe
from .schedule import factor
from .stages import Stage, evaluation, stage_of
from .state import Clock, State
from .stopping import Stopped, StopRequest


@dataclass(frozen=True)
class Job:
    """What stays as it is from the first step of a run to its last."""

    recipe: Recipe
    resolution: int
    normalize: Normalize
    num_classes: int
    train: Loader
    valid: Loader
    forward: Callable[[Tensor], Tensor]  # the module of the state, as it is called: compiled, shared among processes
    device: torch.device
    processes: Processes = ALONE
    teacher: Teacher | None = None
    loggers: Sequence[Logger] = ()
    log_every: int = 20  # steps
    save_every: int | None = None  # steps; and always after an epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return steps_per_epoch(len(self.train.data), self.recipe.batch_size)

    @property
    def evaluation(self) -> Evaluation:
        """How the network is evaluated."""
        return evaluation(self.recipe, self.resolution, self.normalize, self.processes)

    def lr_factor(self, step: int) -> float:
        """Share of the learning rate that a step has, counted from 0."""
        steps, total = self.steps_per_epoch, self.steps_per_epoch * self.recipe.epochs
        return factor(self.recipe.schedule, step, steps_per_epoch=steps, total_steps=total)

    def stage(self, epoch: int) -> Stage:
        """How images look in an epoch, counted from 0."""
        return stage_of(self.recipe, self.resolution, self.normalize, epoch)


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

    Raises Stopped, with the state saved, where the process is told to stop; and Diverged where steps have no finite
    loss or gradient, also after going back to the last checkpoint once.
    """
    for logger in job.loggers:
        logger.go_back(state.step, state.history)
    if saver is not None and state.step == 0:
        saver.save(state)  # so that a disk that cannot be written is found before the first step
    while not finished(job.recipe, state.history):
        try:
            train_one_epoch(state, job, saver, stop)
            end_epoch(state, job, stop)
        except _NotFinite:
            _go_back(state, job, saver)
            continue
        except Stopped:
            if saver is not None:
                saver.save(state)
            raise
        if saver is not None:
            saver.save(state)


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
            batch = _Batch(images, labels, index, rows, len(batches[0]), epoch)
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
                saver.save(state)
            if job.processes.any(bool(stop)):
                raise Stopped
    _check(state, recipe)


@dataclass(frozen=True)
class _Batch:
    """The rows that a process has of a batch of `count` images."""

    images: Tensor
    labels: Tensor
    index: Tensor
    rows: slice
    count: int
    epoch: int


def train_step(state: State, job: Job, stage: Stage, batch: _Batch) -> Tensor:
    """One optimizer step; the L2 norm of the gradients before clipping. Does not wait for a CUDA device."""
    recipe = job.recipe
    set_lr(state.optimizer, job.lr_factor(state.step))
    state.optimizer.zero_grad(set_to_none=True)
    statistics = NormStatistics(state.model)
    before = statistics.gather()
    counted = torch.zeros(3, dtype=torch.float64, device=job.device)
    parts = list(micro_batches(batch.rows, recipe.accumulate))
    for number, part in enumerate(parts):
        with _last_only(job.forward, number == len(parts) - 1):
            counted += backward(state, job, stage, batch, part, number)
    state.scaler.unscale_(state.optimizer)
    parameters = [parameter for parameter in state.model.parameters() if parameter.grad is not None]
    norm = grad_norm(parameters)
    after, counted = _over_processes(job.processes, statistics.gather(), counted)
    bad = ~torch.isfinite(counted[0])
    if not state.scaler.is_enabled():  # gradients that fp16 cannot hold are the scaler's, which then scales less
        bad |= ~torch.isfinite(norm)
    if recipe.clip is not None:
        clip_gradients(parameters, max_norm=recipe.clip.max_norm, max_value=recipe.clip.max_value, norm=norm)
    stepped = _step(state, bad)
    statistics.scatter(torch.where(bad, before, after))
    statistics.uncount(bad)
    if state.average is not None and stepped is not False:
        unless = None if stepped else ~(torch.isfinite(counted[0]) & torch.isfinite(norm))
        state.average.update(state.model, state.step, unless)
    state.counters.add(counted, bad)
    return norm


def backward(state: State, job: Job, stage: Stage, batch: _Batch, part: slice, number: int) -> Tensor:
    """Add the gradients of a micro-batch: (sum of losses, right answers, images) of it."""
    recipe = job.recipe
    mine = slice(part.start - batch.rows.start, part.stop - batch.rows.start)
    # Dropout and drop-path draw from torch's own generator; augmentation draws for the whole batch, and takes its rows.
    torch.manual_seed(random_seed(recipe.seed, "step", state.step, job.processes.rank, number))
    draws = Draws(random_seed(recipe.seed, "augment", state.step), batch.count, part, job.device)
    images = stage.inputs.train(batch.images[mine], batch.index[mine], batch.epoch, draws)
    images, targets = mix_batch(images, batch.labels[mine], job.num_classes, stage.mix, draws)
    if recipe.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with autocast(recipe.precision, job.device):
        logits = job.forward(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        if recipe.distill is not None and job.teacher is not None:
            taught = distillation_loss(logits, job.teacher(images), recipe.distill.temperature)
            loss = (1 - recipe.distill.alpha) * loss + recipe.distill.alpha * taught
    # Each image weighs the same, whichever micro-batch it is in; processes are averaged, so theirs are multiplied.
    share = len(images) * job.processes.count / batch.count
    state.scaler.scale(loss * share).backward()
    answers = targets if targets.ndim == 1 else targets.argmax(1)
    right = (logits.detach().argmax(1) == answers).sum()
    count = torch.full((), len(images), device=job.device)
    return torch.stack([loss.detach().double() * len(images), right.double(), count.double()])


def end_epoch(state: State, job: Job, stop: StopRequest) -> None:
    """Validate, and write the epoch into the history. Raises Stopped."""
    start = time.perf_counter()
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


def _over_processes(processes: Processes, statistics: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the statistics of norms and the sum of the counts, in one exchange."""
    if processes.count == 1:
        return statistics, counted
    both = processes.sum_(torch.cat([statistics.double(), counted]))
    return (both[:-3] / processes.count).to(statistics.dtype), both[-3:]


def _step(state: State, bad: Tensor) -> bool | None:
    """Let the optimizer change the weights, unless the step is bad; whether it did, None if only the device knows."""
    optimizer = state.optimizer
    if state.scaler.is_enabled():
        state.scaler.step(optimizer)
        state.scaler.update()
        return None
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        _start_momentum(optimizer)
        # How the scaler of torch tells fused optimizers to leave everything as it is, without the host looking.
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]
        optimizer.step()
        return None
    if bad:
        return False
    optimizer.step()
    return True


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """What SGD's first step would begin with; torch allocates it, and if that step is skipped leaves it unset."""
    if isinstance(optimizer, torch.optim.SGD) and not optimizer.state:
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                optimizer.state[parameter]["momentum_buffer"] = zeros


def _last_only(forward: Callable[[Tensor], Tensor], last: bool) -> AbstractContextManager[None]:
    """Exchange gradients with the other processes for the last micro-batch only."""
    if last or not isinstance(forward, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return forward.no_sync()


def _check(state: State, recipe: Recipe) -> None:
    if state.counters.skipped[2] >= recipe.skip_limit:
        raise _NotFinite


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
    saver.save(state)
    for logger in job.loggers:
        logger.go_back(state.step, state.history)


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
