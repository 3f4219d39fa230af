"""Whole runs of the project's commands: a run, the same killed and resumed, evaluation, prediction, a real training."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import statistics
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from .results import Rows, Values, within
from .setting import Setting, command_of
from .setting import run as run_process

_NETWORK = "efficientnet-pico"
_TINY_DATA = "fake:64x4"
_SECONDS = 300.0  # after which a command hangs
_POLL_SECONDS = 0.02


class CommandError(Exception):
    """A command of the project did not end as expected; `output` is the end of what it printed."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


def runs(setting: Setting, rows: Rows) -> None:
    """Record a default run, the same killed and resumed, both again with `deterministic`, eval-arch, predict-arch."""
    folder, train = _new_folder(setting.out / "runs"), _Trainings(setting, rows)
    for name, options in (("default", []), ("deterministic", ["--set", "deterministic=true", "--no-report"])):
        whole, resumed = folder / f"{name}-whole", folder / f"{name}-resumed"
        rows.measure(f"train-arch, {name}", partial(train.whole, whole, options))
        case = f"train-arch, {name}, SIGTERM, --resume"
        if setting.tiny and name == "default":
            rows.skip(case, "in small only with deterministic")
            continue
        # The report is made once: it takes seconds, and is no part of what is compared.
        rows.measure(case, partial(train.in_two, resumed, [*options, *([] if options else ["--no-report"])]))
        rows.measure(f"weights of both, {name}", partial(_same_weights, whole, resumed, must=name == "deterministic"))
    rows.measure("eval-arch", partial(_evaluated, setting, rows, folder / "default-whole"))
    rows.measure("predict-arch", partial(_predicted, setting, rows, folder / "default-whole"))


def train(setting: Setting, rows: Rows) -> None:
    """Train B0 with the recipe cifar10-fast7 in bf16, on real images."""
    data = setting.data or (_TINY_DATA if setting.tiny else None)
    case = "cifar10-fast7, bf16, seed 0"
    if data is None:
        rows.skip(case, "no --data: folder:DIR with CIFAR-10 as images, or cifar10:DIR")
        return
    rows.measure(case, partial(_fast7, setting, rows, data))


class _Trainings:
    """Runs of efficientnet-pico with the default recipe and data."""

    def __init__(self, setting: Setting, rows: Rows) -> None:
        self._rows = rows
        self._command = [*command_of("train"), _NETWORK, "--device", setting.device]
        # Without options, as a person runs it first: on scikit-learn's digits.
        self._command += ["--data", _TINY_DATA, "--epochs", "4"] if setting.tiny else []

    def whole(self, run: Path, options: list[str]) -> Values:
        """Train without a disturbance."""
        _run([*self._command, "--out", str(run), *options], self._rows)
        return _figures(run)

    def in_two(self, run: Path, options: list[str]) -> Values:
        """Train, send SIGTERM after the first epoch, and resume."""
        command = [*self._command, "--out", str(run), *options]
        ended = run_process(command, min(_SECONDS, self._rows.seconds_left), on_start=partial(_terminate, run))
        if ended.code != 128 + signal.SIGTERM:
            raise CommandError(f"expected exit code 143 after SIGTERM: {ended.reason}", ended.output)
        epochs = len(_epochs(run))
        _run([*command_of("train"), "--resume", str(run)], self._rows)
        return {"epochs_before": epochs, **_figures(run)}


def _run(command: list[str], rows: Rows) -> list[str]:
    """Run a command of the project: the lines of its output. Raises CommandError if it fails."""
    lines: list[str] = []
    ended = run_process(command, min(_SECONDS, rows.seconds_left), on_line=lines.append)
    if ended.code != 0:
        raise CommandError(f"{ended.reason} of {' '.join(command[2:])}", ended.output)
    return lines


def _json(lines: list[str]) -> Any:
    """Return the document in an output, after which there may be warnings; ends in an error if there is none."""
    starts = [number for number, line in enumerate(lines) if line[:1] in ("{", "[")]
    document, _ = json.JSONDecoder().raw_decode("\n".join(lines[starts[0] :] if starts else lines))
    return document


def _new_folder(folder: Path) -> Path:
    """Return a folder that is new, whatever an earlier benchmark left there."""
    number, new = 1, folder
    while new.exists():
        number += 1
        new = folder.with_name(f"{folder.name}-{number}")
    new.mkdir(parents=True)
    return new


def _terminate(run: Path, process: subprocess.Popen[str]) -> None:
    """Send SIGTERM once an epoch is over."""
    end = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < end:
        if _epochs(run):
            process.send_signal(signal.SIGTERM)
            return
        time.sleep(_POLL_SECONDS)


def _epochs(run: Path) -> list[dict[str, str]]:
    path = run / "times.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _figures(run: Path) -> Values:
    """Return what a run says of itself; images/s without the first epoch, which warms up."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    rates = [float(row["images_per_second"]) for row in _epochs(run)]
    return {
        "test_accuracy": result["test_accuracy"],
        "images_per_second": statistics.median(rates[1:] or rates),
        "train_seconds": result["train_seconds"],
        "sha256": _digest(run)[:16],
    }


def _digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def _same_weights(one: Path, other: Path, *, must: bool) -> Values:
    """Compare files; without `deterministic` kernels may sum in another order, so that a difference is no failure."""
    same = _digest(one) == _digest(other)
    return {"same_bytes": same, "passed": same or not must}


def _evaluated(setting: Setting, rows: Rows, run: Path) -> Values:
    command = [*command_of("evaluate"), str(run), "--device", setting.device, "--format", "json"]
    found = _json(_run(command, rows))
    expected = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return within(abs(found["top1"] - expected["test_accuracy"]), 0.0, accuracy=found["top1"])


def _predicted(setting: Setting, rows: Rows, run: Path) -> Values:
    from PIL import Image

    picture = run.parent / "picture.png"
    Image.effect_noise((32, 32), 80).convert("RGB").save(picture)
    command = [*command_of("predict"), str(run), str(picture), "--device", setting.device, "--format", "json"]
    return {"rows": len(_json(_run(command, rows)))}


def _fast7(setting: Setting, rows: Rows, data: str) -> Values:
    network = _NETWORK if setting.tiny else "efficientnet-b0"
    run = _new_folder(setting.out / "train") / "fast7"
    command = [*command_of("train"), network, "--recipe", "cifar10-fast7", "--data", data, "--device", setting.device]
    command += ["--set", "precision=bf16", "--set", "seed=0", "--no-report", "--out", str(run)]
    command += ["--epochs", "2"] if setting.tiny else []
    start = time.monotonic()
    _run(command, rows)
    return {"network": network, "data": data, **_figures(run), "process_seconds": time.monotonic() - start}
