"""Random rectangles, one for each image, and their masks. A box is (top, left, height, width) in px."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .augment_settings import Cutout, Erasing, RandomResizedCrop
from .draws import Draws

_TRIES = 10


def crop_boxes(size: Sequence[int], crop: RandomResizedCrop, draws: Draws) -> Tensor:
    """Parts of images of this height and width, as int64 boxes (N, 4) on the CPU."""
    draws, (height, width) = draws.on_cpu(), size
    tall, wide = _sides(height * width, crop.scale, 1 / _aspect(crop.ratio, draws), draws)
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    tall, wide = _first(tall, fits), _first(wide, fits)
    top, left = _corner(height - tall, width - wide, draws)
    box = torch.stack([top, left, tall, wide], 1)
    return torch.where(fits.any(1, keepdim=True), box, _central(height, width, crop.ratio))


def erasing_boxes(size: Sequence[int], erasing: Erasing, draws: Draws) -> Tensor:
    """What to overwrite, as int64 boxes (N, 4) on the CPU; empty where nothing is, or no try was within the image."""
    draws, (height, width) = draws.on_cpu(), size
    chosen = draws.uniform() < erasing.probability
    tall, wide = _sides(height * width, erasing.scale, _aspect(erasing.ratio, draws), draws)
    fits = (tall < height) & (wide < width)
    tall, wide = _first(tall, fits), _first(wide, fits)
    top, left = _corner(height - tall, width - wide, draws)
    return torch.stack([top, left, tall, wide], 1) * (chosen & fits.any(1))[:, None]


def cutout_boxes(size: Sequence[int], cutout: Cutout, draws: Draws) -> Tensor:
    """Squares around random pixels, as int64 boxes (N, 4) on the CPU that may reach beyond the image."""
    draws, (height, width) = draws.on_cpu(), size
    side = cutout.size * (draws.uniform() < cutout.probability)
    top, left = draws.integers(0, height) - cutout.size // 2, draws.integers(0, width) - cutout.size // 2
    return torch.stack([top, left, side, side], 1)


def box_mask(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Which pixels lie in the box of each image, (N, 1, H, W), where the boxes (N, 4) are."""
    height, width = size
    top, left, tall, wide = boxes[:, :, None].unbind(1)
    row = torch.arange(height, device=boxes.device)
    column = torch.arange(width, device=boxes.device)
    rows = (row >= top) & (row < top + tall)
    columns = (column >= left) & (column < left + wide)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _aspect(ratio: Sequence[float], draws: Draws) -> Tensor:
    """Tries (N, 10) of a ratio, whose logarithm is uniform."""
    low, high = (math.log(end) for end in ratio)
    return (low + (high - low) * draws.uniform(_TRIES).double()).exp()


def _sides(area: int, scale: Sequence[float], aspect: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Tries of height and width, (N, 10) each, with shares of an area and height / width `aspect`."""
    low, high = scale
    share = low + (high - low) * draws.uniform(_TRIES).double()
    return (area * share * aspect).sqrt().round().long(), (area * share / aspect).sqrt().round().long()


def _first(tries: Tensor, fits: Tensor) -> Tensor:
    """The first of the tries (N, 10) that fits; any where none does."""
    return tries.gather(1, fits.int().argmax(1, keepdim=True))[:, 0]


def _corner(down: Tensor, right: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Uniform among the corners from 0 to `down` and from 0 to `right`, both included."""
    at = draws.uniform(2).double()
    return (at[:, 0] * (down + 1)).floor().long(), (at[:, 1] * (right + 1)).floor().long()


def _central(height: int, width: int, ratio: Sequence[float]) -> Tensor:
    """The largest central box (4,) within the ratios of width to height."""
    low, high = ratio
    tall = round(width / low) if width / height < low else height
    wide = round(height * high) if width / height > high else width
    return torch.tensor([(height - tall) // 2, (width - wide) // 2, tall, wide])
