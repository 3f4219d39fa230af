"""Sets of images, wherever their pixels are; what a source is asked for, and the rule for other channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..config import ConfigError, Mark, Problem
from .device import upload
from .storage import OnBad, Storage, in_bytes

Progress = Callable[[Iterable[object], int, str], Iterable[object]]
"""Wraps an iterable of known length and a description, to show how far it is."""

Shape = tuple[int, int, int, int]

# ITU-R 601 luma in 16-bit fixed point, as Pillow has it: 0.299, 0.587 and 0.114 of 65,536.
_LUMA = torch.tensor([19595, 38470, 7471], dtype=torch.int32)


class DataError(Exception):
    """Images that could not be had: a file that cannot be decoded, a worker that died, no answer in time."""


class Pixels(Protocol):
    """All images of a source, of `shape` (N, C, H, W)."""

    @property
    def shape(self) -> Shape:
        """(N, C, H, W)."""

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The images with these indices (n,) as uint8 (n, C, H, W), in `out` if it is given. Raises DataError."""


@dataclass(frozen=True, eq=False)
class Resident:
    """Pixels in memory, or on the device: uint8 (N, C, H, W)."""

    images: Tensor

    @property
    def shape(self) -> Shape:
        """(N, C, H, W)."""
        n, c, h, w = self.images.shape
        return n, c, h, w

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The images with these indices, where the others are."""
        images = torch.index_select(self.images, 0, upload(index, self.images.device))
        return images if out is None else out.copy_(images)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Some images of a source, with their labels; it holds no pixels of its own."""

    pixels: Pixels
    labels: Tensor  # (n,) int64 on the CPU
    index: Tensor  # (n,) int64 on the CPU: which of the source's images they are

    def __len__(self) -> int:
        return len(self.index)

    def take(self, index: Tensor) -> ImageSet:
        """The images with these indices; their pixels stay where they are."""
        return ImageSet(self.pixels, self.labels[index], self.index[index])

    def read(self, index: Tensor | None = None) -> Tensor:
        """The images with these indices, or all, as uint8 (n, C, H, W). Raises DataError."""
        return self.pixels.read(self.index if index is None else self.index[index])


def in_memory(images: Tensor, labels: Tensor) -> ImageSet:
    """The set of all these images, uint8 (N, C, H, W)."""
    return ImageSet(Resident(images), labels.to(torch.int64), torch.arange(len(labels)))


@dataclass(frozen=True)
class Dataset:
    """A training and a test set with the names of their classes."""

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    ignored: int = 0  # files in the folders that are no images by their names
    notes: tuple[str, ...] = ()  # what was decided while reading, for the person to know
    storage: Storage = Storage.memory  # where the images are kept
    where: str = "kept in memory"  # the same for a person, with the reason
    fingerprint: str = ""  # the same for the same data, wherever and whenever they are read

    @property
    def pixels(self) -> list[Pixels]:
        """Where the pixels of both sets are: one place, or two."""
        return [self.train.pixels, *([] if self.test.pixels is self.train.pixels else [self.test.pixels])]

    @property
    def bytes(self) -> int:
        """Of all images, decoded."""
        return sum(math.prod(pixels.shape) for pixels in self.pixels)

    @property
    def kept(self) -> str:
        """`60,000 images of 32 px, 184 MB: kept in memory`."""
        count, side = len(self.train) + len(self.test), self.train.pixels.shape[-1]
        return f"{count:,} images of {side} px, {in_bytes(self.bytes)}: {self.where}"


@dataclass(frozen=True)
class Wanted:
    """What a source is asked for: images for a network of so many channels and px, and where they may be kept."""

    channels: int
    size: int
    free: int | None
    progress: Progress
    mark: Mark
    storage: Storage = Storage.auto
    cache_dir: Path | None = None
    on_bad: OnBad = OnBad.error

    def refuse(self, message: str) -> ConfigError:
        """The error to raise, with the source that was asked for."""
        return ConfigError([Problem(message, mark=self.mark)])

    def check_memory(self, count: int, side: int, stored: int, copies: int = 2) -> None:
        """Refuse images of `stored` channels that would not fit, held so many times while they are made ready."""
        self.check_pixels(count * side**2, stored, f"{count:,} images of {side} px", copies)

    def check_pixels(self, pixels: int, stored: int, what: str, copies: int = 2) -> None:
        """Check the memory for so many pixels. Raises ConfigError if `what` would not fit."""
        needed = copies * pixels * max(self.channels, stored)
        if self.free is not None and needed > self.free:
            have = f"{needed / 1e9:.1f} GB of memory, {self.free / 1e9:.1f} are free"
            raise self.refuse(f"{what} need {have}")


def with_channels(images: Tensor, channels: int) -> Tensor:
    """(N, C, H, W) with other channels: one is the luma of red, green and blue, n are the C in turn.

    So grey becomes three equal channels, and four channels are red, green, blue, red: the order in which
    `models.weights.adapt_in_channels` repeats weights.
    """
    given = images.shape[1]
    if given == channels:
        return images.contiguous()
    if given == 3 and channels == 1:
        return torch.cat([_luma(chunk) for chunk in images.split(4096)])
    return images[:, torch.arange(channels) % given]


def _luma(images: Tensor) -> Tensor:
    weighted = images.to(torch.int32) * _LUMA[:, None, None]
    return ((weighted.sum(1, keepdim=True, dtype=torch.int32) + 2**15) >> 16).to(torch.uint8)
