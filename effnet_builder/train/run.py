"""The run directory: its files, how one is made, and what of it may be removed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import left_over, read_regular, write_atomic
from .checkpoint import Checkpoints

LOCK = ".lock"
# What a run has before its first checkpoint, and what it has in the end.
_FIRST = (
    LOCK, "spec.yaml", "recipe.yaml", "plan.json", "run.json", "metrics.csv", "times.csv", "metrics.jsonl", "wandb.id",
    "checkpoints", "tensorboard", "wandb",
)  # fmt: skip
_FOLDERS = ("checkpoints", "tensorboard", "wandb")
_WRITTEN = frozenset({
    *_FIRST, "model.safetensors", "evaluation.json", "result.json", "report.html", "curves.svg", "curves.png",
    "confusion.svg", "misclassified.png",
})  # fmt: skip


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
        """Remove what killed processes left half written, and nothing else. Only the run's owner may ask for it."""
        for path in self._left_over():
            path.unlink(missing_ok=True)

    def _left_over(self) -> Iterator[Path]:
        names = os.listdir(self.folder) if self.folder.is_dir() else ()
        yield from (self.folder / name for name in names if left_over(name, _WRITTEN))
        yield from self.checkpoints.left_over()

    def foreign(self) -> list[str]:
        """The names in it that are not those of a run that was killed before its first checkpoint."""
        names = sorted(os.listdir(self.folder))
        return [name for name in names if name not in _FIRST and not left_over(name, _FIRST)]

    def remove(self) -> None:
        """Remove all that a run writes, the lock last, and the directory if nothing else is in it. Raises OSError.

        Only the run's owner may ask for it: a process that waits for the lock finds either the lock or nothing.
        """
        self.clean()
        for name in _WRITTEN - {LOCK}:
            path = self.folder / name
            if name in _FOLDERS and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):  # such as a name that is too long for its folder: it is not there
                    path.unlink()
        (self.folder / LOCK).unlink(missing_ok=True)
        self.folder.rmdir()

    def write_json(self, name: str, value: object) -> None:
        """Write a file of the run. Raises OSError."""
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # Names of files may hold bytes that are no text; what Python makes of them is escaped as JSON escapes.
        write_atomic(self.folder / name, text.encode(errors="backslashreplace"))

    def read_json(self, name: str) -> Any:
        """Read a file of the run. Raises OSError where it is not there or is no JSON."""
        path = self.folder / name
        try:
            return json.loads(read_regular(path))
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
