"""`train-arch` as a process that is harmed, and all that must be as in the run that nothing harmed."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import itertools
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# A server that has loaded torch once: each command is a copy of it that has used nothing yet, and starts at once.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([
    "effnet_builder.cli.train", "effnet_builder.cli.session", "effnet_builder.cli.finish", "effnet_builder.cli.evaluate",
    "effnet_builder.cli.predict", "effnet_builder.cli.build", "effnet_builder.plotting", "effnet_builder.report",
    "torch._dynamo", "harness",
])  # fmt: skip

TIMEOUT = 120
SPEC = "extends: efficientnet-pico\nname: small\nscaling: {width: 0.1, depth: 0.1, resolution: 16}\n"
RECIPE = """
name: short
epochs: 3
batch_size: 8
optimizer: {type: sgd, lr: 0.05, nesterov: true}
schedule: {type: cosine, warmup: 2steps}
ema: {horizon: 4steps}
augment: {random_resized_crop: {}, horizontal_flip: random}
valid_fraction: 0.3
"""
OPTIONS = ["--device", "cpu", "--save-every", "4", "--log-every", "1", "--no-report"]
STEPS = 7  # of an epoch
SAME = ("model.safetensors", "metrics.csv", "metrics.jsonl", "evaluation.json", "spec.yaml", "recipe.yaml", "plan.json")
_TIMES = ("seconds", "images_per_second", "wait_share")


@dataclass(frozen=True)
class Place:
    """A folder with a spec, a recipe and photographs as JPEG files."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def start(self, run: Path, *more: object, data: Path | None = None) -> list[str]:
        """The arguments of a new run."""
        spec, recipe = self.folder / "small.yaml", self.folder / "short.yaml"
        new = [spec, "--recipe", recipe, "--data", f"folder:{data or self.images}", *OPTIONS, "--out", run, *more]
        return [str(argument) for argument in new]


def make_place(folder: Path) -> Place:
    """Parts of the two photographs of scikit-learn, and its digits, as classes: 27 images each to train, 5 to test."""
    from sklearn.datasets import load_digits, load_sample_images

    (folder / "small.yaml").write_text(SPEC)
    (folder / "short.yaml").write_text(RECIPE)
    generator = np.random.default_rng(0)
    for part, count in (("train", 27), ("test", 5)):
        for name, source in zip(("china", "flower"), load_sample_images().images, strict=True):
            for i in range(count):
                height, width = generator.integers(20, 40, 2)
                top, left = (generator.integers(0, side - 40) for side in source.shape[:2])
                _write(folder / "images" / part / name / f"{i}.jpg", source[top : top + height, left : left + width])
        digits = load_digits().images[: 27 if part == "train" else 5]
        for i, digit in enumerate(digits):
            _write(
                folder / "images" / part / "digit" / f"{i}.jpg",
                (digit * 15.9).astype(np.uint8).repeat(4, 0).repeat(4, 1),
            )
    return Place(folder)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@dataclass(frozen=True)
class Fault:
    """What happens at the given call, counted from 1, of a function: before it, or after.

    `target` is `module:name` as the module that calls it knows it, `what` a signal (`SIGKILL`, `SIGINT,SIGTERM`), an
    errno to raise (`ENOSPC`), `FULL` for a disk without room for larger files than 50 kB from then on, `ROOM` for its
    end, `SLEEP` for a minute, `DO` and statements of Python,
    or `TIMES nan`, which multiplies what it returns.
    """

    target: str
    call: int
    what: str
    late: bool = False

    def __str__(self) -> str:
        return f"{self.what} {'after' if self.late else 'before'} call {self.call} of {self.target}"


@dataclass(frozen=True)
class Ended:
    """How a command ended; a signal that killed it is a negative code."""

    code: int
    out: str
    err: str

    def said(self) -> str:
        return f"exit code {self.code}\n{self.out}{self.err}"


class Command:
    """A command of ours that runs, by the name of its module in `cli`."""

    def __init__(
        self,
        arguments: Sequence[object],
        folder: Path,
        *faults: Fault,
        program: str = "train",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.files = [folder / f".{kind}-{os.getpid()}-{time.monotonic_ns()}" for kind in ("out", "err")]
        around = {"EFFNET_BUILDER_DATA": str(folder / "data"), **(environment or {})}
        given = (
            [str(argument) for argument in arguments],
            folder,
            program,
            around,
            faults,
            self.files,
        )
        self.killed = False
        self.process: BaseProcess = SERVER.Process(target=_command, args=given)
        self.process.start()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, if the process is still there."""
        assert self.process.pid is not None
        self.killed = self.killed or number is signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def end(self, timeout: float = TIMEOUT) -> Ended:
        """Wait for its end."""
        self.process.join(timeout)
        hung = self.process.exitcode is None
        self.process.kill()
        self.process.join()
        out, err = (file.read_text(errors="replace") if file.exists() else "" for file in self.files)
        for file in self.files:
            file.unlink(missing_ok=True)
        assert not hung, f"no end after {timeout:g} s:\n{out}{err}"
        code = self.process.exitcode
        assert code is not None
        if self.killed and code == 255:  # the fork server did not see how it ended
            code = -signal.SIGKILL
        return Ended(code, out, err)


def command(arguments: Sequence[object], folder: Path, *faults: Fault, **options: Any) -> Ended:
    """Run one to its end."""
    return Command(arguments, folder, *faults, **options).end()


def _command(
    arguments: list[str],
    folder: Path,
    program: str,
    environment: dict[str, str],
    faults: tuple[Fault, ...],
    files: Sequence[Path],
) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= environment
    os.chdir(folder)
    # What starts the tests may ignore it, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file, number in zip(files, (1, 2), strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o666), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.argv = [f"{program}-arch", *arguments]
    for fault in faults:
        harm(fault)
    try:
        importlib.import_module(f"effnet_builder.cli.{program}").main()
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError):
                stream.flush()


def harm(fault: Fault) -> None:
    """Let it happen in this process."""
    module, _, path = fault.target.partition(":")
    *outer, name = path.split(".")
    owner: Any = functools.reduce(getattr, outer, importlib.import_module(module))
    real: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count(1)  # its next number is one thread's alone

    @functools.wraps(real)
    def harmed(*given: Any, **options: Any) -> Any:
        now = next(calls) == fault.call
        if now and not fault.late and not fault.what.startswith("TIMES "):
            _happen(fault.what)
        result = real(*given, **options)
        if now and fault.what.startswith("TIMES "):
            return result * float(fault.what.removeprefix("TIMES "))
        if now and fault.late:
            _happen(fault.what)
        return result

    setattr(owner, name, harmed)


def _happen(what: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if what in ("FULL", "ROOM"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000 if what == "FULL" else hard, hard))
    elif what == "SLEEP":
        time.sleep(60)
    elif what.startswith("DO"):
        exec(what.removeprefix("DO").strip(), {})
    elif what.startswith("SIG"):
        for name in what.split(","):
            os.kill(os.getpid(), signal.Signals[name])
    else:
        number = getattr(errno, what)
        raise OSError(number, os.strerror(number))


def outcome(run: Path) -> dict[str, object]:
    """Everything that equal runs have equal, by name: files, and the tensors and facts of the last checkpoint."""
    from effnet_builder.train.checkpoint import read
    from effnet_builder.train.run import Run

    checkpoints = Run(run).checkpoints
    last = read(checkpoints.path(checkpoints.steps()[0]))
    found: dict[str, object] = {name: (run / name).read_bytes() for name in SAME}
    found |= {
        f"checkpoint: {name}": (str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes())
        for name, tensor in last.tensors.items()
    }
    facts = {name: value for name, value in last.facts.items() if name != "clock"}
    history = [{name: value for name, value in epoch.items() if name not in _TIMES} for epoch in facts.pop("history")]
    return found | {"facts": json.dumps(facts, sort_keys=True), "history": history, "steps": checkpoints.steps()}


def differences(run: Path, expected: Mapping[str, object]) -> list[str]:
    """The names of all that is not as expected."""
    found = outcome(run)
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))


if __name__ == "__main__":  # harness.py TARGET CALL WHAT ARGUMENTS: train-arch as a process that copies no other
    harm(Fault(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
    sys.argv = ["train-arch", *sys.argv[4:]]
    importlib.import_module("effnet_builder.cli.train").main()
