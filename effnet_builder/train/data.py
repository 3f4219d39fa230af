"""Data: the images of a source, kept where there is room for them, with labels and class names; the split."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from ..config import ConfigError, Mark, Problem
from .images import DataError, Dataset, ImageSet, Progress, Resident, Wanted, in_memory
from .sources import read_source
from .storage import OnBad, Storage, fits_device, in_bytes

__all__ = [
    "DataError",
    "Dataset",
    "ImageSet",
    "OnBad",
    "Progress",
    "Storage",
    "free_memory",
    "in_memory",
    "load_dataset",
    "place",
    "split",
]

MAX_CHANNELS = 1000  # as many as a recipe can normalize


def load_dataset(
    source: str,
    *,
    channels: int,
    size: int,
    progress: Progress,
    storage: Storage | str = Storage.auto,
    cache_dir: str | os.PathLike[str] | None = None,
    on_bad: OnBad | Literal["error", "skip"] = OnBad.error,
) -> Dataset:
    """Read one of `sources.SOURCES`, such as `digits` or `folder:DIR`, with this many channels.

    Encoded images become no larger than size x size px; the other sources have small images of one size, and keep it.
    `storage` is where the images are kept; `auto` takes half of the free memory, or else a file in `cache_dir`, or
    else decodes them in every epoch. Images that cannot be read are all listed in the ConfigError, or with `skip` left
    out, up to one of a hundred. All are decoded once for that, also those that are decoded anew in every epoch. Raises
    ConfigError for an unknown source, files that are not there, and every image that cannot be read.
    """
    folder = None if cache_dir is None else Path(cache_dir)
    mark = Mark(f"--data {source}")
    wanted = Wanted(channels, size, free_memory(), progress, mark, Storage(storage), folder, OnBad(on_bad))
    if channels > MAX_CHANNELS:
        raise wanted.refuse(f"the network takes {channels:,} channels; images can have {MAX_CHANNELS:,} at most")
    return read_source(source, wanted)


def place(data: Dataset, device: torch.device, free: int, storage: Storage = Storage.auto) -> Dataset:
    """The data set with its images on the device, if they are in memory and fit half of its `free` bytes.

    Any other is returned as it is; raises ConfigError for that where `storage` is `device`.
    """
    if device.type == "cpu" or storage not in (Storage.auto, Storage.device):
        return data
    in_memory = [pixels for pixels in data.pixels if isinstance(pixels, Resident)]
    if len(in_memory) == len(data.pixels) and fits_device(data.bytes, free):
        there = {id(pixels): Resident(pixels.images.to(device)) for pixels in in_memory}
        train, test = (replace(part, pixels=there[id(part.pixels)]) for part in (data.train, data.test))
        return replace(data, train=train, test=test, storage=Storage.device, where=f"kept on {device}")
    if storage is Storage.device:
        message = f"images of {in_bytes(data.bytes)} do not go to {device}: they may take half of {in_bytes(free)}"
        raise ConfigError([Problem(message, mark=Mark("--storage device"))])
    return data


def split(data: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """The set without, and the set of, a random `fraction` of its images; at least two and one. Raises ConfigError."""
    if len(data) < 3:
        message = f"{len(data)} training images; expected at least 3, to train and to validate"
        raise ConfigError([Problem(message, mark=Mark("--data"))])
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held_out = min(max(1, int(fraction * len(data))), len(data) - 2)
    return data.take(order[held_out:]), data.take(order[:held_out])


def free_memory() -> int | None:
    """Return the bytes that this process may take without swapping, where the system says so (Linux).

    On the machine, in the container, and under the limit of `ulimit -v`. Each process that torchrun starts on a
    machine has an equal share of the first two.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    machine = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    ranks = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    shared = [free // ranks for free in (*machine, *_free_in_container())]
    return min([*shared, *_free_address_space()], default=None)


def _free_address_space() -> list[int]:
    """What `ulimit -v` leaves, where it is set."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return []
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return [max(0, limit - pages * resource.getpagesize())]


def _free_in_container() -> list[int]:
    """The memory that the control group leaves, with what it only caches of files; nothing where it sets no limit."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        return [max(0, int(limit) - int(used) + int(cached))]
    except (OSError, ValueError, KeyError):  # `max` is no number
        return []
