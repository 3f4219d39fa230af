"""The run directory: whose it is, and what lies in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..config import write_whole
from .checkpoint import Checkpoints

_LOCK = ".lock"
_UNFINISHED = re.compile(r"\.[\w-]+\.[a-z]+\.\w+")  # see tensors.write_tensors and config.write_whole
_POLL = 0.2  # seconds
# What a run has before its first checkpoint.
_FIRST = (
    _LOCK, "spec.yaml", "recipe.yaml", "plan.json", "run.json", "metrics.csv", "times.csv", "metrics.jsonl",
    "checkpoints", "tensorboard", "wandb",
)  # fmt: skip


class Busy(OSError):  # noqa: N818
    """Another process has the run."""


@dataclass(frozen=True)
class Run:
    """A run directory by its files."""

    folder: Path

    @property
    def spec(self) -> Path:
        """The network, as it is trained."""
        return self.folder / "spec.yaml"

    @property
    def recipe(self) -> Path:
        """How it is trained, with nothing left to be measured."""
        return self.folder / "recipe.yaml"

    @property
    def weights(self) -> Path:
        """What is kept of the training."""
        return self.folder / "model.safetensors"

    @property
    def checkpoints(self) -> Checkpoints:
        """From which the run goes on."""
        return Checkpoints(self.folder / "checkpoints")

    @property
    def done(self) -> bool:
        """Whether the training came to its end."""
        return (self.folder / "result.json").is_file()

    def clean(self) -> None:
        """Remove what killed processes left half written. Only the run's owner may ask for it."""
        for folder in (self.folder, self.checkpoints.folder):
            for path in folder.iterdir() if folder.is_dir() else ():
                if _UNFINISHED.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def foreign(self) -> list[str]:
        """The names in it that are not those of a run that was killed before its first checkpoint."""
        names = sorted(os.listdir(self.folder))
        unfinished = tuple(f".{name}." for name in _FIRST)  # see config.write_whole
        return [name for name in names if name not in _FIRST and not name.startswith(unfinished)]

    def write_json(self, name: str, value: object) -> None:
        """Write a file of the run. Raises OSError."""
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # Names of files may hold bytes that are no text; what Python makes of them is escaped as JSON escapes.
        write_whole(self.folder / name, text.encode(errors="backslashreplace"))

    def read_json(self, name: str) -> Any:
        """Read a file of the run. Raises OSError where it is not there or is no JSON."""
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise OSError(f"{path} cannot be read: {error}") from None


def create(target: Path) -> Run:
    """Make an empty run directory. Raises OSError, also where something is there already."""
    if os.path.lexists(target):
        hint = "; to go on with it, use --resume" if (target / "recipe.yaml").exists() else ""
        raise FileExistsError(f"{target} exists already, and is not overwritten{hint}")
    try:
        os.fsencode(target).decode()
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "holds bytes that are no UTF-8; safetensors reads no file there") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir()
    return Run(target)


def create_next(folder: Path, name: str) -> Run:
    """Make `folder/name-1`, or the first number that is free. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)  # out here, a file in the folder's place is no taken number
    number = 1
    while True:
        try:
            return create(folder / f"{name}-{number}")
        except FileExistsError:
            number += 1


@contextmanager
def owning(run: Run, patience: float = 0) -> Iterator[None]:
    """Keep others out of a run until the end of the process, however it ends.

    Raises Busy where another still has it after `patience` seconds.
    """
    path, latest = run.folder / _LOCK, time.monotonic() + patience
    with path.open("a+", encoding="utf-8") as file:
        while not _locked(file):
            if time.monotonic() >= latest:
                file.seek(0)
                raise Busy(f"{run.folder}: another process is at work on it ({file.read().strip() or 'unknown'})")
            time.sleep(_POLL)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        # Processes that decode images are copies of this one; they would hold the lock for as long as they outlive it.
        held = weakref.ref(file)
        os.register_at_fork(after_in_child=lambda: _close(held()))
        yield  # the file stays: another process may have it open already, and would then lock one that has no name


def _close(file: IO[str] | None) -> None:
    if file is not None:
        file.close()


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def removed_if_empty(run: Run) -> Iterator[None]:
    """Remove the directory where the work fails before there is anything to go on from."""
    try:
        yield
    except BaseException:
        if not run.checkpoints.steps() and not run.done:
            with contextlib.suppress(OSError):
                shutil.rmtree(run.folder)
        raise
