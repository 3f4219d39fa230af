"""What stays as it is from the first step of a run to its last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .batches import steps_per_epoch
from .distill import Teacher
from .loading import Loader
from .loggers import Logger
from .predictions import Evaluation
from .processes import ALONE, Processes
from .recipe import Normalize, Recipe
from .schedule import factor
from .stages import Stage, evaluation, stage_of


@dataclass(frozen=True)
class Job:
    """A recipe and what it works on: data, network, device, processes, and who is told of it."""

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
    eval_batch: int | None = None  # images evaluated at a time; None for those of a micro-batch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return steps_per_epoch(len(self.train.data), self.recipe.batch_size)

    @property
    def evaluation(self) -> Evaluation:
        """How the network is evaluated."""
        return evaluation(self.recipe, self.resolution, self.normalize, self.processes, self.eval_batch)

    def lr_factor(self, step: int) -> float:
        """Share of the learning rate that a step has, counted from 0."""
        steps, total = self.steps_per_epoch, self.steps_per_epoch * self.recipe.epochs
        return factor(self.recipe.schedule, step, steps_per_epoch=steps, total_steps=total)

    def stage(self, epoch: int) -> Stage:
        """How images look in an epoch, counted from 0."""
        return stage_of(self.recipe, self.resolution, self.normalize, epoch)
