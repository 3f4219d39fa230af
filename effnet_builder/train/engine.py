"""The training loop: receives a module, data and a recipe, and knows no architecture."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .augment import InputPath
from .data import ImageSet
from .ema import EmaModel
from .loading import Loader
from .loggers import EpochMetrics, Logger
from .optim import build_optimizer, clip_gradients, set_lr
from .recipe import Recipe
from .schedule import factor


@dataclass(frozen=True)
class Score:
    """Mean loss and share of right answers over a set."""

    loss: float
    accuracy: float


class Diverged(Exception):  # noqa: N818
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Fitted:
    """What came of a training: the epochs, and the module to keep, which is the average where the recipe wants one."""

    history: list[EpochMetrics]
    model: nn.Module


def fit(
    model: nn.Module, train: ImageSet, valid: ImageSet, recipe: Recipe, inputs: InputPath, loggers: Sequence[Logger]
) -> Fitted:
    """Train a module in place, where its parameters are, and validate it after each epoch. Raises Diverged."""
    steps = len(epoch_batches(recipe, 0, len(train)))
    lengths = {"steps_per_epoch": steps, "total_steps": steps * recipe.epochs}
    optimizer = build_optimizer(recipe.optimizer, model, recipe.batch_size)
    average = None if recipe.ema is None else EmaModel(model, recipe.ema, **lengths)
    history = []
    for epoch in range(recipe.epochs):
        start = time.perf_counter()
        trained = train_one_epoch(model, train, recipe, inputs, optimizer, average, epoch, loggers)
        if not math.isfinite(trained.loss):
            lr = recipe.optimizer.base_lr(recipe.batch_size)
            raise Diverged(f"the training loss of epoch {epoch + 1} is {trained.loss}; try a lower lr than {lr}")
        validated = evaluate(model, valid, recipe.batch_size, inputs)
        averaged = None if average is None else evaluate(average.module, valid, recipe.batch_size, inputs)
        metrics = EpochMetrics(
            epoch=epoch + 1,
            lr=optimizer.param_groups[0]["lr"],
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            valid_loss=validated.loss,
            valid_accuracy=validated.accuracy,
            ema_loss=None if averaged is None else averaged.loss,
            ema_accuracy=None if averaged is None else averaged.accuracy,
            seconds=time.perf_counter() - start,
        )
        history.append(metrics)
        for logger in loggers:
            logger.epoch(metrics)
    return Fitted(history, model if average is None else average.module)


def train_one_epoch(
    model: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    inputs: InputPath,
    optimizer: torch.optim.Optimizer,
    average: EmaModel | None,
    epoch: int,
    loggers: Sequence[Logger],
) -> Score:
    """One pass in random order; the score is of the batches as they were trained on."""
    model.train()
    device = _device_of(model)
    tally = _Tally(device)
    batches = epoch_batches(recipe, epoch, len(data))
    for i, (raw, labels, _) in enumerate(Loader(data, device).batches(batches)):
        step = epoch * len(batches) + i
        torch.manual_seed(_random_seed(recipe.seed, "step", step))  # of augmentation, dropout and drop-path
        images = inputs(raw, torch.default_generator)
        total = len(batches) * recipe.epochs
        set_lr(optimizer, factor(recipe.schedule, step, steps_per_epoch=len(batches), total_steps=total))
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip is not None:
            clip_gradients(model.parameters(), max_norm=recipe.clip.max_norm, max_value=recipe.clip.max_value)
        optimizer.step()
        if average is not None:
            average.update(model, step)
        tally.add(logits.detach(), labels, loss.detach())
        for logger in loggers:
            logger.step(i + 1, len(batches))
    return tally.score()


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageSet, batch_size: int, inputs: InputPath) -> Score:
    """The score on every image of a set, each counted once, without augmentation."""
    model.eval()
    device = _device_of(model)
    tally = _Tally(device)
    for images, labels, _ in Loader(data, device).batches(torch.arange(len(data)).split(batch_size)):
        logits = model(inputs(images))
        tally.add(logits, labels, F.cross_entropy(logits, labels))
    return tally.score()


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def choose_device(name: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: CUDA where there is one. Raises ValueError where the wanted one is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here")
    return torch.device(name)


def epoch_batches(recipe: Recipe, epoch: int, count: int) -> list[torch.Tensor]:
    """The indices of each batch of an epoch: a function of seed and epoch alone.

    A last batch of a single image is left out: batch norm cannot train on it.
    """
    generator = torch.Generator().manual_seed(_random_seed(recipe.seed, "order", epoch))
    batches = torch.randperm(count, generator=generator).split(recipe.batch_size)
    return [index for index in batches if len(index) > 1]


def _random_seed(seed: int, what: str, number: int) -> int:
    # Hashed, because torch's generator on the CPU looks at the low 32 bits of a seed only.
    return int.from_bytes(hashlib.blake2b(f"{seed} {what} {number}".encode(), digest_size=4).digest(), "big")


class _Tally:
    """Sums of loss and right answers, kept on the device so that the loop does not wait for it."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, device=device, dtype=torch.float64)
        self.count = 0

    def add(self, logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        right = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss * len(labels), right])
        self.count += len(labels)

    def score(self) -> Score:
        loss, right = (self.sums / max(1, self.count)).tolist()
        return Score(loss, right)
