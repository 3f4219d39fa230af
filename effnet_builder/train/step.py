"""One optimizer step: forward, backward, what is done to the gradients, and what a bad step leaves as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arithmetic import autocast
from .batches import micro_batches
from .distill import distillation_loss
from .draws import Draws, random_seed
from .job import Job
from .mixing import mix_batch
from .norms import NormStatistics
from .optim import clip_gradients, grad_norm, set_lr
from .processes import Processes
from .skipping import start_momentum, supports_skipping
from .stages import Stage
from .state import State


@dataclass(frozen=True)
class Rows:
    """The rows that a process has of a batch of `count` images."""

    images: Tensor
    labels: Tensor
    index: Tensor
    rows: slice
    count: int
    epoch: int


def train_step(state: State, job: Job, stage: Stage, batch: Rows) -> Tensor:
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
    parameters = [parameter for parameter in state.model.parameters() if parameter.grad is not None]
    job.processes.average_gradients(job.forward, parameters)
    state.scaler.unscale_(state.optimizer)
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


def backward(state: State, job: Job, stage: Stage, batch: Rows, part: slice, number: int) -> Tensor:
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


def _over_processes(processes: Processes, statistics: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the statistics of norms and the sum of the counts, in one exchange."""
    if processes.count == 1:
        return statistics, counted
    both = processes.sum_(torch.cat([statistics.double(), counted]))
    return (both[:-3] / processes.count).to(statistics.dtype), both[-3:]


def _step(state: State, bad: Tensor) -> bool | None:
    """Let the optimizer change the weights, unless the step is bad; whether it did, None if only the device knows."""
    optimizer = state.optimizer
    if supports_skipping(optimizer):
        start_momentum(optimizer)
    if state.scaler.is_enabled():
        state.scaler.step(optimizer)
        state.scaler.update()
        return None
    if bad.is_cuda and supports_skipping(optimizer):
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]
        optimizer.step()
        return None
    if bad:
        return False
    optimizer.step()
    return True


def _last_only(forward: Callable[[Tensor], Tensor], last: bool) -> AbstractContextManager[None]:
    """Exchange gradients with the other processes for the last micro-batch only."""
    if last or not isinstance(forward, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return forward.no_sync()
