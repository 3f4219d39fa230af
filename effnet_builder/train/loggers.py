"""Who is told how training goes: the console and the CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..config import of_system
from ..files import write_atomic


@dataclass(frozen=True)
class StepMetrics:
    """A step, counted from 1, and the means over the steps since the last report.

    `skipped` counts the steps of the run so far whose loss or gradient was no number.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    lr: float
    grad_norm: float
    skipped: int
    images_per_second: float
    wait_share: float


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch, counted from 1, came to; accuracies from 0 to 1. `ema_` is of the average, where there is one.

    Only the last three, which are of the training alone, differ between equal runs.
    """

    epoch: int
    step: int
    resolution: int
    lr: float
    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    valid_top5: float
    ema_loss: float | None
    ema_accuracy: float | None
    ema_top5: float | None
    skipped: int
    seconds: float
    images_per_second: float
    wait_share: float

    @property
    def kept_accuracy(self) -> float:
        """Of the weights that are kept: the average, where there is one."""
        return self.valid_accuracy if self.ema_accuracy is None else self.ema_accuracy


TIMES = ("seconds", "images_per_second", "wait_share")


class Logger(Protocol):
    """Told of training as it goes, in the first process only."""

    def tick(self, step: int, steps: int) -> None:
        """`step` of the `steps` of this epoch is done; must not wait for the device."""

    def step(self, metrics: StepMetrics) -> None:
        """Some steps are done."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """An epoch is done and validated."""

    def go_back(self, step: int, history: Sequence[EpochMetrics]) -> None:
        """Forget what came after this step: the run goes on from there."""

    def close(self) -> None:
        """Nothing more comes."""


class CsvLogger:
    """One line for each epoch, on disk as soon as it ends; what was measured with a clock is in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: list[EpochMetrics] = []
        self.behind = False  # what is on disk

    def tick(self, step: int, steps: int) -> None:
        """Nothing is written for a step."""

    def step(self, metrics: StepMetrics) -> None:
        """Nothing is written for a step."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """Add the line of an epoch. Raises OSError."""
        self.go_back(metrics.step, [*self.history, metrics])

    def go_back(self, step: int, history: Sequence[EpochMetrics]) -> None:
        """Write the lines of these epochs, and no others. Raises OSError."""
        self.history, self.behind = list(history), True
        names = [field.name for field in fields(EpochMetrics)]
        results, times = [name for name in names if name not in TIMES], ["epoch", *TIMES]
        write_atomic(self.folder / "metrics.csv", _table(results, self.history))
        write_atomic(self.folder / "times.csv", _table(times, self.history))
        self.behind = False

    def close(self) -> None:
        """Try again what could not be written. Raises OSError."""
        if self.behind:
            self.go_back(0, self.history)


class Tolerant:
    """A logger that may fail and stops nothing by it: the error is said, once, and it is told of all that follows."""

    def __init__(self, logger: Logger, say: Callable[[str], None]) -> None:
        self.logger, self.say = logger, say
        self.said = ""

    def tick(self, step: int, steps: int) -> None:
        """Tell it of a step."""
        self._try(partial(self.logger.tick, step, steps))

    def step(self, metrics: StepMetrics) -> None:
        """Tell it of a report."""
        self._try(partial(self.logger.step, metrics))

    def epoch(self, metrics: EpochMetrics) -> None:
        """Tell it of an epoch."""
        self._try(partial(self.logger.epoch, metrics))

    def go_back(self, step: int, history: Sequence[EpochMetrics]) -> None:
        """Tell it where the run goes on."""
        self._try(partial(self.logger.go_back, step, history))

    def close(self) -> None:
        """Tell it that nothing more comes."""
        self._try(self.logger.close)

    def _try(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # those of other libraries are of any kind
            reason = of_system(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            reason = " ".join(reason.split())
            if reason != self.said:
                self.say(f"{reason}; the training goes on, and what is missing is written as soon as it can be")
            self.said = reason


class ConsoleLogger:
    """A progress bar on a terminal, and everywhere one line for each epoch, printed by `say`."""

    def __init__(self, console: Console, epochs: int, say: Callable[[str], None]) -> None:
        self.epochs, self.skipped = epochs, 0
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )  # fmt: skip
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.say = partial(self.bar.console.print, markup=False, soft_wrap=True) if console.is_terminal else say
        self.task = self.bar.add_task("epoch 1", figures="")
        self.bar.start()

    def tick(self, step: int, steps: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=step, total=steps)

    def step(self, metrics: StepMetrics) -> None:
        """Show loss, accuracy and speed beside the bar."""
        figures = f"loss {metrics.loss:.3f}  {metrics.accuracy:.1%}  {metrics.images_per_second:,.0f} images/s"
        self.bar.update(self.task, description=f"epoch {metrics.epoch}", figures=figures)

    def epoch(self, metrics: EpochMetrics) -> None:
        """Print the line of an epoch, and what to change where training waited for data."""
        width = len(str(self.epochs))
        average = "" if metrics.ema_accuracy is None else f", of the average {metrics.ema_accuracy:6.2%}"
        self.say(
            f"epoch {metrics.epoch:{width}}/{self.epochs}  lr {metrics.lr:<8.4g}"
            f"  train loss {metrics.train_loss:.4f}, accuracy {metrics.train_accuracy:6.2%}"
            f"  valid loss {metrics.valid_loss:.4f}, accuracy {metrics.valid_accuracy:6.2%}{average}"
            f"  {metrics.seconds:.1f} s, {metrics.images_per_second:,.0f} images/s"
        )
        if metrics.skipped > self.skipped:
            self.say(f"  skipped steps: {metrics.skipped - self.skipped:,}, loss or gradient no finite number")
        self.skipped = metrics.skipped
        if metrics.wait_share > 0.1 and metrics.seconds > 1:
            self.say(
                f"  {metrics.wait_share:.0%} of the training time went into waiting for data; "
                "more --workers may help, or --storage cache or memory"
            )
        self.bar.update(self.task, description=f"epoch {metrics.epoch + 1}", completed=0)

    def go_back(self, step: int, history: Sequence[EpochMetrics]) -> None:
        """Say where the run goes on."""
        self.skipped = history[-1].skipped if history else 0
        if step:
            self.say(f"going on after step {step:,}, in epoch {len(history) + 1}")
        self.bar.update(self.task, description=f"epoch {len(history) + 1}", completed=0)

    def close(self) -> None:
        """Take the bar away."""
        self.bar.stop()


def _table(names: Sequence[str], history: Sequence[EpochMetrics]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(metrics) for metrics in history)
    return text.getvalue()
