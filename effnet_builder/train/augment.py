"""The input path on the device: uint8 images to normalized float batches, augmented image by image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .augment_settings import Augment, Cutout, Erasing
from .boxes import box_mask, crop_boxes, cutout_boxes, erasing_boxes
from .data import ImageSet
from .device import upload
from .draws import Draws, hashed_normal
from .geometry import (
    alternating,
    centre_crop,
    corners,
    crop_resize,
    line_weights,
    mirror,
    random_window,
    resize,
    weighted_lines,
    window_weights,
)
from .loading import Loader
from .policies import apply_policy
from .recipe import Normalize

_MIN_SCALE = 2  # of an enlargement by sums of lines: with more lines they are more work than the copies they save


@dataclass(frozen=True)
class InputPath:
    """uint8 (N, C, H, W) to normalized float (N, C, R, R), as evaluation or as training sees them.

    Images that are larger than R are resized before anything else, smaller ones at the end unless the recipe says
    `resize_first`: px of crops and cutouts are those of the image in between.
    """

    resolution: int
    normalize: Normalize
    augment: Augment
    eval_crop: float = 1.0

    def evaluate(self, images: Tensor) -> Tensor:
        """The centre of each image, resized and normalized."""
        return resize(self._normalized(self._central(images)), self.resolution)

    def train(self, images: Tensor, index: Tensor, epoch: int, draws: Draws) -> Tensor:
        """Images with these indices (N,) in the data set as an epoch shows them, changed by `draws`.

        An image depends on its own index and row of the draws, not on those beside it; only the last bits may, by a
        matrix product: of a random_resized_crop on a GPU, of small images that are resized first on a CPU. Does not
        wait for the device.
        """
        augment = self.augment
        x = (self._enlarged if self._enlarges(images) else self._changed)(images, index, epoch, draws)
        if augment.erasing is not None:
            x = erase(x, augment.erasing, draws)
        if augment.cutout is not None:
            x = cut_out(x, augment.cutout, draws)
        return resize(x, self.resolution)

    def _changed(self, images: Tensor, index: Tensor, epoch: int, draws: Draws) -> Tensor:
        """Cropped or resized, changed by the policy, mirrored, windowed, normalized: one after the other."""
        augment = self.augment
        if augment.random_resized_crop is not None:
            boxes = crop_boxes(images.shape[-2:], augment.random_resized_crop, draws)
            x = crop_resize(images, boxes, self.resolution)
        else:
            x = self._central(images)
            x = resize(x, self.resolution) if augment.resize_first else x
        if augment.policy is not None:
            x = apply_policy(x.round().to(torch.uint8) if x.is_floating_point() else x, augment.policy, draws)
        if augment.horizontal_flip:
            x = mirror(x, self._flips(index, epoch, draws))
        if augment.crop_padding:
            x = random_window(x, augment.crop_padding, augment.padding_mode, draws)
        return self._normalized(x)

    def _enlarges(self, images: Tensor) -> bool:
        """Whether a CPU makes small images large before anything else, which is faster by `_enlarged`."""
        augment = self.augment
        first = augment.resize_first and augment.random_resized_crop is None and augment.policy is None
        return first and images.is_cpu and _MIN_SCALE * max(images.shape[-2:]) <= self.resolution

    def _enlarged(self, images: Tensor, index: Tensor, epoch: int, draws: Draws) -> Tensor:
        """The same as `_changed`, in the same draws: weighted sums of the lines of the small images, and no copies."""
        augment, padding = self.augment, self.augment.crop_padding
        small = centre_crop(images, self.eval_crop).float() * _per_channel(self._scale, images.device)
        nowhere = torch.zeros(len(images), dtype=torch.int64)
        mirrored = self._flips(index, epoch, draws) if augment.horizontal_flip else nowhere
        top, left = corners(padding, draws) if padding else (nowhere, nowhere)
        height, width = (line_weights(side, self.resolution) for side in small.shape[-2:])
        rows = window_weights(height, padding, augment.padding_mode, top, nowhere)
        columns = window_weights(width, padding, augment.padding_mode, left, mirrored)
        return weighted_lines(small, rows, columns, _per_channel(self._shift, images.device).flatten())

    def _flips(self, index: Tensor, epoch: int, draws: Draws) -> Tensor:
        """Which images are mirrored, (N,)."""
        if self.augment.horizontal_flip == "alternating":
            return alternating(upload(index, draws.device), epoch)
        return draws.integers(0, 2) == 1

    def _central(self, images: Tensor) -> Tensor:
        """What evaluation keeps of the images, no larger than the network's input."""
        x = centre_crop(images, self.eval_crop)
        return resize(x, self.resolution) if max(x.shape[-2:]) > self.resolution else x

    def _normalized(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32, copy=True)
        return x.mul_(_per_channel(self._scale, x.device)).add_(_per_channel(self._shift, x.device))

    @property
    def _scale(self) -> tuple[float, ...]:
        return tuple(1 / (255 * std) for std in self.normalize.std)

    @property
    def _shift(self) -> tuple[float, ...]:
        return tuple(-mean / std for mean, std in zip(self.normalize.mean, self.normalize.std, strict=True))


@cache  # copied to the device once, not for every batch
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)[:, None, None]


def erase(x: Tensor, erasing: Erasing, draws: Draws) -> Tensor:
    """Normalized images, in place, with a rectangle of zeros or of noise in some of them."""
    boxes = erasing_boxes(x.shape[-2:], erasing, draws)
    mask = box_mask(upload(boxes, x.device), x.shape[-2:])
    if erasing.value == "zero":
        return x.masked_fill_(mask, 0)
    return torch.where(mask, hashed_normal(draws.integers(0, 2**31), *x.shape[1:]), x)


def cut_out(x: Tensor, cutout: Cutout, draws: Draws) -> Tensor:
    """Normalized images, in place, with a square of zeros in some of them."""
    boxes = cutout_boxes(x.shape[-2:], cutout, draws)
    return x.masked_fill_(box_mask(upload(boxes, x.device), x.shape[-2:]), 0)


def measure_normalization(data: ImageSet) -> Normalize:
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
