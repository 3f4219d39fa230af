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
from .loggers import EpochMetrics, Logger
from .recipe import Recipe


@dataclass(frozen=True)
class Score:
    """Mean loss and share of right answers over a set."""

    loss: float
    accuracy: float


class Diverged(Exception):  # noqa: N818
    """The loss is no longer a finite number."""


def fit(
    model: nn.Module, train: ImageSet, valid: ImageSet, recipe: Recipe, inputs: InputPath, loggers: Sequence[Logger]
) -> list[EpochMetrics]:
    """Train a module in place, where its parameters are, and validate it after each epoch. Raises Diverged."""
    settings = recipe.optimizer
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )
    history = []
    for epoch in range(recipe.epochs):
        start = time.perf_counter()
        lr = recipe.schedule.lr(settings.lr, epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr
        generator = epoch_generator(recipe.seed, epoch)
        trained = train_one_epoch(model, optimizer, train, recipe.batch_size, inputs, generator, loggers)
        if not math.isfinite(trained.loss):
            raise Diverged(
                f"the training loss of epoch {epoch + 1} is {trained.loss}; try a lower lr than {settings.lr}"
            )
        validated = evaluate(model, valid, recipe.batch_size, inputs)
        metrics = EpochMetrics(
            epoch=epoch + 1,
            lr=lr,
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            valid_loss=validated.loss,
            valid_accuracy=validated.accuracy,
            seconds=time.perf_counter() - start,
        )
        history.append(metrics)
        for logger in loggers:
            logger.epoch(metrics)
    return history


def train_one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: ImageSet,
    batch_size: int,
    inputs: InputPath,
    generator: torch.Generator,
    loggers: Sequence[Logger],
) -> Score:
    """One pass in random order; the score is of the batches as they were trained on."""
    model.train()
    tally = _Tally(data.labels.device)
    steps = math.ceil(len(data) / batch_size)
    for step, (images, labels) in enumerate(inputs.batches(data, batch_size, generator), start=1):
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        tally.add(logits.detach(), labels, loss.detach())
        for logger in loggers:
            logger.step(step, steps)
    return tally.score()


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageSet, batch_size: int, inputs: InputPath) -> Score:
    """The score on every image of a set, each counted once, without augmentation."""
    model.eval()
    tally = _Tally(data.labels.device)
    for images, labels in inputs.batches(data, batch_size):
        logits = model(images)
        tally.add(logits, labels, F.cross_entropy(logits, labels))
    return tally.score()


def choose_device(name: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: CUDA where there is one. Raises ValueError where the wanted one is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here")
    return torch.device(name)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The source of an epoch's order and augmentation: a function of seed and epoch alone."""
    # Hashed, because torch's generator on the CPU looks at the low 32 bits of a seed only.
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


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
