"""Checkpoints: one safetensors file each, written whole or not at all, with a digest of all that is in it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import shorten
from ..files import left_over, make_folder
from ..tensors import Damaged, read_tensors, write_tensors

__all__ = ["Checkpoint", "Checkpoints", "Damaged", "read", "write"]

_FORMAT = 1
_NAME = re.compile(r"step-([0-9]{9})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and facts as JSON has them."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start so, by the rest of their names."""
        return {name.removeprefix(prefix): one for name, one in self.tensors.items() if name.startswith(prefix)}


class Checkpoints:
    """The checkpoints of a run by their step: the newest two, and those of the best epochs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """The steps that have one, newest first. What a killed process left unfinished is not among them."""
        try:
            found = [_NAME.fullmatch(name) for name in os.listdir(self.folder)]
        except FileNotFoundError:
            return []
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step-{step:09d}.safetensors"

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step. Raises Damaged, also where it is of another step than its name says."""
        found = read(self.path(step))
        said = found.facts.get("step")
        if said != step:
            raise Damaged(f"{self.path(step)}: is of step {shorten(f'{said}')}, whatever its name says")
        return found

    def left_over(self) -> Iterator[Path]:
        """Files that a killed process left half written."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) and not os.path.islink(self.folder) else ()
        for name in names:
            written = name[1:].rpartition(".")[0]
            if _NAME.fullmatch(written) and left_over(name, (written,)):
                yield self.folder / name

    def save(self, step: int, checkpoint: Checkpoint, keep: Iterable[int] = ()) -> Path:
        """Write one, then remove all but the newest two and those of the steps in `keep`. Raises OSError.

        Also removes those of later steps, which a run has that went back, or on from an older one: they are no part of
        it any more, and one that is damaged would stay the newest.
        """
        make_folder(self.folder)
        path = self.path(step)
        write(path, checkpoint)
        for later in self.steps():
            if later > step:
                self.path(later).unlink(missing_ok=True)
        self.prune(step, keep)
        return path

    def prune(self, step: int, keep: Iterable[int]) -> None:
        """Remove those of earlier steps, but the newest two and those of the steps in `keep`. Raises OSError."""
        there = [one for one in self.steps() if one <= step]
        for old in {*there[2:]} - {*keep}:
            self.path(old).unlink(missing_ok=True)

    def newest(self) -> Iterator[tuple[int, Checkpoint | Damaged]]:
        """Each step and its checkpoint, newest first; one that is damaged comes as the error that says how."""
        for step in self.steps():
            try:
                yield step, self.at(step)
            except Damaged as error:
                yield step, error


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a file that is never seen half written, also after a power cut. Raises OSError."""
    facts = json.dumps({"format": _FORMAT, **checkpoint.facts}, sort_keys=True)
    write_tensors(path, checkpoint.tensors, {"format": "pt", "facts": facts})


def read(path: Path) -> Checkpoint:
    """The checkpoint in a file. Raises Damaged where anything in it is not as it was written."""
    tensors, metadata = read_tensors(path)
    try:
        _, found = metadata["digest"], json.loads(metadata["facts"])
        version = found["format"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise Damaged(f"{path}: no checkpoint") from None
    if version != _FORMAT:
        raise Damaged(f"{path}: of format {shorten(f'{version}')}; this version reads format {_FORMAT}")
    return Checkpoint(tensors, found)
