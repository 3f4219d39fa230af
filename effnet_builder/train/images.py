"""Images in memory: the sets that sources give, what a source is asked for, and the rule for other channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ConfigError, Mark, Problem

Progress = Callable[[Iterable[object], int, str], Iterable[object]]
"""Wraps an iterable of known length and a description, to show how far it is."""

# ITU-R 601 luma in 16-bit fixed point, as Pillow has it: 0.299, 0.587 and 0.114 of 65,536.
_LUMA = torch.tensor([19595, 38470, 7471], dtype=torch.int32)


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) as uint8 and labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> ImageSet:
        """The images with these indices."""
        return ImageSet(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> ImageSet:
        """The set on a device."""
        return ImageSet(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A training and a test set with the names of their classes."""

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    ignored: int = 0  # files in the folders that are no images by their names
    notes: tuple[str, ...] = ()  # what was decided while reading, for the person to know


@dataclass(frozen=True)
class Wanted:
    """What a source is asked for: images for a network of so many channels and px, within so many bytes of memory."""

    channels: int
    size: int
    free: int | None
    progress: Progress
    mark: Mark

    def refuse(self, message: str) -> ConfigError:
        """The error to raise, with the source that was asked for."""
        return ConfigError([Problem(message, mark=self.mark)])

    def check_memory(self, count: int, side: int, stored: int) -> None:
        """Refuse images of `stored` channels that would not fit: they are held twice while they are made ready."""
        needed = 2 * count * max(self.channels, stored) * side**2
        if self.free is not None and needed > self.free:
            have = f"{needed / 1e9:.1f} GB of memory, {self.free / 1e9:.1f} are free"
            raise self.refuse(f"{count:,} images of {side} px need {have}")


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
