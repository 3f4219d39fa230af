"""The run directory: it appears whole, when the run is done, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def claim(target: Path) -> Path:
    """Make the hidden folder beside `target` in which the run grows. Raises OSError where another run has it."""
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists already, and is not overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        unfinished.mkdir()
    except FileExistsError:
        reason = f"another run is at work on it, or was killed: {unfinished} is there; remove it to use the name again"
        raise FileExistsError(f"{target}: {reason}") from None
    return unfinished


def claim_next(folder: Path, name: str) -> tuple[Path, Path]:
    """Claim `folder/name-1`, or the first number that is free: target and hidden folder. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)  # out here, a file in the folder's place is no taken number
    number = 1
    while True:
        target = folder / f"{name}-{number}"
        try:
            return target, claim(target)
        except FileExistsError:
            number += 1


@contextmanager
def publishing(unfinished: Path, target: Path) -> Iterator[None]:
    """Rename the hidden folder to `target` when the work in it is done; remove it if the work fails. Raises OSError."""
    try:
        yield
        for path in unfinished.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    try:
        os.rename(unfinished, target)
    except OSError as error:
        raise OSError(f"{target}: {error.strerror}; the finished run lies in {unfinished}") from None
