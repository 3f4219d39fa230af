"""Where steps and epochs are written to be read by programs: JSON lines, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ConfigError, Mark, Problem
from ..files import make_folder, naming, open_in_place, read_regular, write_atomic
from .loggers import EpochMetrics, StepMetrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# Two equal runs differ in these alone.
_TIMING = frozenset({"seconds", "images_per_second", "wait_share"})


class JsonlLogger:
    """One JSON object a line, on disk as soon as it is known. Equal runs write equal bytes: no time is in it.

    {"kind": "step", "step": 20, "epoch": 1, "loss": 1.2, "lr": 0.1, "grad_norm": 0.8, "skipped": 0}
    {"kind": "epoch", "epoch": 1, ...}: the fields of EpochMetrics. A number that is not finite is null.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pending = b""  # lines that are not on disk
        self.end: int | None = None  # of what is whole on disk; None for all of it
        self.back: tuple[int, int] | None = None  # the last step and epoch to keep, where others are still to go

    def step(self, metrics: StepMetrics) -> None:
        """Append the line of a step. Raises OSError."""
        self._append("step", asdict(metrics))

    def epoch(self, metrics: EpochMetrics) -> None:
        """Append the line of an epoch. Raises OSError."""
        self._append("epoch", asdict(metrics))

    def tick(self, step: int, steps: int) -> None:
        """Nothing is written for a step that is not reported."""

    def go_back(self, step: int, history: Sequence[EpochMetrics]) -> None:
        """Keep what a checkpoint knows of, so many steps and epochs, so that a resumed run adds what follows.

        A line that was cut short goes too. The file is rewritten atomically. Raises OSError.
        """
        self.back = (step, len(history))
        self.pending = _trimmed(self.pending, *self.back)
        self._write()

    def close(self) -> None:
        """Try again what could not be written. Raises OSError."""
        if self.pending or self.back:
            self._write()

    def _append(self, kind: str, data: Mapping[str, Any]) -> None:
        shown = {name: _finite(value) for name, value in data.items() if name not in _TIMING}
        self.pending += json.dumps({"kind": kind, **shown}, allow_nan=False).encode() + b"\n"
        self._write()

    def _write(self) -> None:
        """All that is pending, after what is whole on disk: an earlier attempt may have left a part of it there."""
        if self.back is not None:
            if os.path.lexists(self.path):
                write_atomic(self.path, _trimmed(read_regular(self.path)[: self.end], *self.back))
            self.back = self.end = None
        if not self.pending:
            return
        with naming(self.path), open_in_place(self.path) as file:
            size = file.seek(0, os.SEEK_END)
            self.end = min(size, size if self.end is None else self.end)
            file.seek(self.end)
            file.truncate(self.end)
            file.write(self.pending)
        self.end += len(self.pending)
        self.pending = b""


def _trimmed(content: bytes, step: int, epochs: int) -> bytes:
    lines = content.split(b"\n")[:-1]  # what follows the last line feed was cut short
    return b"".join(line + b"\n" for line in lines if _known(line, {"step": step, "epoch": epochs}))


def _known(line: bytes, done: Mapping[str, int]) -> bool:
    """Whether a line is whole and of the steps or epochs that are done."""
    try:
        data = json.loads(line)
        return bool(data[data["kind"]] <= done[data["kind"]])
    except (ValueError, LookupError, TypeError):
        return False


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TensorBoardLogger:
    """Event files in a folder, everything over steps; needs the extra `tensorboard`. Raises ConfigError without it.

    Where a run goes back, or goes on, TensorBoard hides what was written of the steps that are done again.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise _missing(error, "tensorboard") from None

        def start(step: int | None) -> SummaryWriter:
            make_folder(folder)
            return SummaryWriter(str(folder), purge_step=step)

        self.open: Callable[[int | None], SummaryWriter] = start
        self.writer: SummaryWriter | None = None

    def tick(self, step: int, steps: int) -> None:
        """Nothing is written for a step that is not reported."""

    def step(self, metrics: StepMetrics) -> None:
        """The numbers of a step."""
        self._add(_step_scalars(metrics), metrics.step)

    def epoch(self, metrics: EpochMetrics) -> None:
        """The numbers of an epoch, at its last step."""
        self._add(_epoch_scalars(metrics), metrics.step)

    def go_back(self, step: int, history: Sequence[EpochMetrics]) -> None:
        """Hide what comes after this step."""
        self.close()
        self.writer = self.open(step + 1 if step else None)

    def close(self) -> None:
        """Write what is left."""
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()

    def _add(self, scalars: Mapping[str, float], step: int) -> None:
        if self.writer is None:
            self.writer = self.open(None)
        try:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()
        except BaseException:
            self.writer = None  # it would fail for good; the next one writes a new file
            raise


class WandbLogger:
    """A run of Weights & Biases; needs the extra `wandb`. Its own settings (WANDB_MODE, WANDB_PROJECT) hold.

    Its files lie in `folder`; with WANDB_MODE=offline nothing is sent. The file `wandb.id` there says which run is
    continued: what is told of steps that it knows already is left out. Raises ConfigError where wandb is missing or
    cannot start.
    """

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise _missing(error, "wandb") from None
        file = folder / "wandb.id"
        known = read_regular(file).decode() if file.exists() else None
        _refuse_settings_of(Path.cwd())
        make_folder(folder / "wandb")
        # Otherwise it runs git in the working directory, whose configuration may be anybody's, and uploads the code.
        settings = wandb.Settings(disable_git=True, disable_code=True, save_code=False)
        try:
            self.run: Any = wandb.init(
                name=name, config=dict(config), dir=str(folder), id=known, resume="allow", settings=settings
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            message = f"Weights & Biases does not start: {reason}; WANDB_MODE=offline needs neither account nor network"
            raise ConfigError([Problem(message)]) from None
        write_atomic(file, str(self.run.id))

    def tick(self, step: int, steps: int) -> None:
        """Nothing is sent for a step that is not reported."""

    def step(self, metrics: StepMetrics) -> None:
        """The numbers of a step."""
        self.run.log(_step_scalars(metrics), step=metrics.step)

    def epoch(self, metrics: EpochMetrics) -> None:
        """The numbers of an epoch, at its last step."""
        self.run.log(_epoch_scalars(metrics), step=metrics.step)

    def go_back(self, step: int, history: Sequence[EpochMetrics]) -> None:
        """W&B forgets nothing, and takes no step twice."""

    def close(self) -> None:
        """Write, and send, what is left."""
        self.run.finish()


def _refuse_settings_of(folder: Path) -> None:
    """Raise ConfigError for settings that W&B would read here: in an untrusted folder they say whom it talks to."""
    for file in (folder / "wandb" / "settings", folder / ".wandb" / "settings"):
        if os.path.lexists(file):
            message = f"{file} would decide where the run is sent; settings of yours belong into ~/.config/wandb"
            raise ConfigError([Problem(message, mark=Mark("--wandb"))])


def _step_scalars(metrics: StepMetrics) -> dict[str, float]:
    return _scalars("step", metrics, ("step", "epoch"))


def _epoch_scalars(metrics: EpochMetrics) -> dict[str, float]:
    return {"epoch": float(metrics.epoch), **_scalars("epoch", metrics, ("epoch", "step"))}


def _scalars(kind: str, metrics: StepMetrics | EpochMetrics, without: tuple[str, ...]) -> dict[str, float]:
    """`step/loss`, `epoch/valid_accuracy` and so on; what is None is left out."""
    return {
        f"{kind}/{name}": value for name, value in asdict(metrics).items() if value is not None and name not in without
    }


def _missing(error: ModuleNotFoundError, package: str) -> ConfigError:
    name = str(error.name).partition(".")[0]
    return ConfigError([Problem(f"{name} is not installed; pip install 'effnet_builder[{package}]'")])
