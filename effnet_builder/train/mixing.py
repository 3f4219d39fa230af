"""Batches of which each image is mixed with another, and its label with the other's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .augment_settings import Mix
from .draws import Draws


def mix_batch(images: Tensor, labels: Tensor, num_classes: int, mix: Mix | None, draws: Draws) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) and targets (N, num_classes), float32, of which each row sums to 1.

    Without `mix` both stay as they are, labels (N,) int64. An image is mixed with the one before it among the rows
    that the process has, the first with the last: other rows, other pairs.
    """
    if mix is None:
        return images, labels
    targets = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
    if draws.one() >= mix.probability:
        return images, targets
    if mix.mixup is None or (mix.cutmix is not None and draws.one() < mix.switch):
        assert mix.cutmix is not None
        box = cutmix_box(images.shape[-2:], draws.beta(mix.cutmix, mix.cutmix), draws)
        images, share = cutmix(images, box)
    else:
        share = draws.beta(mix.mixup, mix.mixup)
        images = mixup(images, share)
    return images, mixup(targets, share)


def mixup(x: Tensor, share: float) -> Tensor:
    """`share * x[i] + (1 - share) * x[i - 1]` (Zhang et al. 2018)."""
    return x * share + x.roll(1, 0) * (1 - share)


def cutmix(images: Tensor, box: tuple[int, int, int, int]) -> tuple[Tensor, float]:
    """Images with the rows and columns of a box from the image before, and the share that is their own (Yun 2019)."""
    top, bottom, left, right = box
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.roll(1, 0)[..., top:bottom, left:right]
    height, width = images.shape[-2:]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def cutmix_box(size: Sequence[int], share: float, draws: Draws) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box around a random pixel that leaves about this share of the image."""
    height, width = size
    row, column = int(draws.one() * height), int(draws.one() * width)
    half = math.sqrt(1 - share) / 2
    tall, wide = int(half * height), int(half * width)
    return max(0, row - tall), min(height, row + tall), max(0, column - wide), min(width, column + wide)
