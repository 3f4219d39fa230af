"""Data: all images of a source as uint8 tensors in memory, with labels and class names; the validation split."""

from __future__ import annotations

from pathlib import Path

import torch

from ..config import ConfigError, Mark, Problem
from .images import Dataset, ImageSet, Progress, Wanted
from .sources import read_source

__all__ = ["Dataset", "ImageSet", "Progress", "free_memory", "load_dataset", "split"]

MAX_CHANNELS = 1000  # as many as a recipe can normalize


def load_dataset(source: str, *, channels: int, size: int, progress: Progress) -> Dataset:
    """Read one of `sources.SOURCES`, such as `digits` or `folder:DIR`, with this many channels.

    Images in folders become no larger than size x size px; the other sources have small images of one size, and keep
    it. Raises ConfigError for an unknown source, files that are not there, and every image that cannot be read.
    """
    wanted = Wanted(channels, size, free_memory(), progress, Mark(f"--data {source}"))
    if channels > MAX_CHANNELS:
        raise wanted.refuse(f"the network takes {channels:,} channels; images can have {MAX_CHANNELS:,} at most")
    return read_source(source, wanted)


def split(data: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """The set without, and the set of, a random `fraction` of its images; at least two and one. Raises ConfigError."""
    if len(data) < 3:
        message = f"{len(data)} training images; expected at least 3, to train and to validate"
        raise ConfigError([Problem(message, mark=Mark("--data"))])
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held_out = min(max(1, int(fraction * len(data))), len(data) - 2)
    return data.take(order[held_out:]), data.take(order[:held_out])


def free_memory() -> int | None:
    """Bytes that can be had without swapping, where the system says so (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
