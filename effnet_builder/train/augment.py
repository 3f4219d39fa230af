"""The input path on the device: uint8 images to normalized float batches, augmented image by image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import ImageSet
from .loading import Loader
from .recipe import Augment, Normalize


@dataclass(frozen=True)
class InputPath:
    """uint8 (N, C, H, W) to float (N, C, R, R): resize, flip, padded crop, normalize."""

    resolution: int
    normalize: Normalize
    augment: Augment

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A batch for the network; augmented with draws of `generator`, where there is one."""
        x = images.float().div_(255)
        if x.shape[-2:] != (self.resolution, self.resolution):
            size = (self.resolution, self.resolution)
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        if generator is not None and self.augment.horizontal_flip:
            mirrored = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
        if generator is not None and self.augment.crop_padding:
            x = random_crop(x, self.augment.crop_padding, generator)
        return (x - _per_channel(self.normalize.mean, x.device)) / _per_channel(self.normalize.std, x.device)


@cache  # copied to the device once, not for every batch
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)[:, None, None]


def random_crop(x: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """A random R x R window of each image (N, C, R, R) with `padding` px of zeros around it."""
    count, _, height, width = x.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator).to(x.device)
    padded = F.pad(x, (padding,) * 4)
    image = torch.arange(count, device=x.device)[:, None, None]
    row = (top[:, None] + torch.arange(height, device=x.device))[:, :, None]
    column = (left[:, None] + torch.arange(width, device=x.device))[:, None, :]
    return padded[image, :, row, column].permute(0, 3, 1, 2)


def measure(data: ImageSet) -> Normalize:
    """Mean and standard deviation of each channel over all images; 1 where a channel is constant."""
    _, channels, height, width = data.pixels.shape
    sums = torch.zeros(2, channels, dtype=torch.float64)
    batches = torch.arange(len(data)).split(256)
    for images, _, _ in Loader(data, torch.device("cpu")).batches(batches):
        x = images.double().div_(255)
        sums += torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
    mean, square = sums / (len(data) * height * width)
    std = (square - mean**2).clamp(min=0).sqrt()
    std = torch.where(std < 1e-6, torch.ones_like(std), std)
    return Normalize(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
