"""Where the images of a run are kept: the names, and the choice by size. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

DATA_VARIABLE = "EFFNET_BUILDER_DATA"
DATA_FOLDER = "~/.cache/effnet_builder/data"

_SHARE_OF_MEMORY = 0.5  # for the images; the rest is for the training
_SHARE_OF_DISK = 0.9


class Storage(str, Enum):
    """Where images are kept between their file and the network, fastest first."""

    auto = "auto"
    device = "device"
    memory = "memory"
    cache = "cache"
    stream = "stream"


class OnBad(str, Enum):
    """What becomes of files that are no readable images: an error that lists them, or a training without them."""

    error = "error"
    skip = "skip"


@dataclass(frozen=True)
class Room:
    """Bytes that are free, where the system says so: memory, and the disk on which a cache would lie."""

    memory: int | None
    disk: int | None

    def choose(self, needed: int) -> Storage:
        """The first of memory, cache and stream that has room for `needed` bytes and leaves some."""
        if self.memory is None or needed <= _SHARE_OF_MEMORY * self.memory:
            return Storage.memory
        if self.disk is None or needed <= _SHARE_OF_DISK * self.disk:
            return Storage.cache
        return Storage.stream


def fits_device(needed: int, free: int) -> bool:
    """Whether images may go to a device: they may take half of what is free, the network has the rest."""
    return needed <= _SHARE_OF_MEMORY * free


def data_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder given, or else that of all data: $EFFNET_BUILDER_DATA or ~/.cache/effnet_builder/data.

    Raises RuntimeError where it starts with `~` and there is no such home folder.
    """
    return Path(given or os.environ.get(DATA_VARIABLE) or DATA_FOLDER).expanduser()


def in_bytes(number: int) -> str:
    """`184 MB`, `12.3 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number < 100 * size else f"{number / size:.0f} {unit}"
    return f"{number} B"
