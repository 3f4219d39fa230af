"""Who is told how training goes: the console and a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch, counted from 1, came to; accuracies from 0 to 1. `ema_` is of the average, where there is one."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    ema_loss: float | None
    ema_accuracy: float | None
    seconds: float

    @property
    def kept_accuracy(self) -> float:
        """Of the weights that are kept: the average, where there is one."""
        return self.valid_accuracy if self.ema_accuracy is None else self.ema_accuracy


class Logger(Protocol):
    """Told of every optimizer step and every epoch."""

    def step(self, step: int, steps: int) -> None:
        """`step` of the `steps` of this epoch is done."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """An epoch is done and validated."""


class CsvLogger:
    """One line for each epoch, on disk as soon as the epoch ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("w", newline="") as file:
            csv.writer(file).writerow([field.name for field in fields(EpochMetrics)])

    def step(self, step: int, steps: int) -> None:
        """Nothing is written for a step."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """Append the line of an epoch."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(asdict(metrics).values())


class ConsoleLogger:
    """A progress bar on a terminal, and everywhere one line for each epoch, printed by `say`."""

    def __init__(self, console: Console, epochs: int, say: Callable[[str], None]) -> None:
        self.epochs = epochs
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.say = partial(self.bar.console.print, markup=False, soft_wrap=True) if console.is_terminal else say
        self.task = self.bar.add_task("epoch 1")
        self.bar.start()

    def step(self, step: int, steps: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=step, total=steps)

    def epoch(self, metrics: EpochMetrics) -> None:
        """Print the line of an epoch."""
        width = len(str(self.epochs))
        average = "" if metrics.ema_accuracy is None else f", of the average {metrics.ema_accuracy:6.2%}"
        self.say(
            f"epoch {metrics.epoch:{width}}/{self.epochs}  lr {metrics.lr:<8.4g}"
            f"  train loss {metrics.train_loss:.4f}, accuracy {metrics.train_accuracy:6.2%}"
            f"  valid loss {metrics.valid_loss:.4f}, accuracy {metrics.valid_accuracy:6.2%}{average}"
            f"  {metrics.seconds:.1f} s"
        )
        self.bar.update(self.task, description=f"epoch {metrics.epoch + 1}", completed=0)

    def close(self) -> None:
        """Take the bar away."""
        self.bar.stop()
