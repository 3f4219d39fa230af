"""Batches of images (N, C, H, W), each moved in its own way: cropped, mirrored, shifted, resampled, warped."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .device import upload
from .draws import Draws, hashed

PaddingMode: TypeAlias = Literal["constant", "reflect"]


def centre_crop(x: Tensor, share: float) -> Tensor:
    """The centre of each image, with this share of its sides."""
    height, width = (max(1, round(side * share)) for side in x.shape[-2:])
    top, left = round((x.shape[-2] - height) / 2), round((x.shape[-1] - width) / 2)
    return x[:, :, top : top + height, left : left + width]


def resize(x: Tensor, size: int) -> Tensor:
    """(N, C, size, size) as floats, bilinear, antialiased where it shrinks; as it is if it has the size already."""
    if x.shape[-2:] == (size, size):
        return x
    shrinks = max(x.shape[-2:]) > size
    return F.interpolate(x.float(), (size, size), mode="bilinear", align_corners=False, antialias=shrinks)


def mirror(x: Tensor, mirrored: Tensor) -> Tensor:
    """The images of which `mirrored` (N,) is true with left and right exchanged."""
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def alternating(index: Tensor, epoch: int) -> Tensor:
    """Whether each image is mirrored, (N,): in the first epoch by a bit of its index, then every other (airbench)."""
    return (hashed(index.to(torch.int32)) & 1) == 1 - epoch % 2


def corners(padding: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """Top and left (N,) of a random window of each image with `padding` px around it."""
    top, left = draws.integers(0, 2 * padding + 1, 2).unbind(1)
    return top, left


def random_window(x: Tensor, padding: int, mode: PaddingMode, draws: Draws) -> Tensor:
    """A random H x W window of each image with `padding` px of black around it, or of itself mirrored at its edges."""
    count, _, height, width = x.shape
    top, left = corners(padding, draws)
    if mode == "constant":
        padded = F.pad(x, (padding,) * 4)
    else:
        padded = x.index_select(2, _reflected(height, padding, x.device))
        padded = padded.index_select(3, _reflected(width, padding, x.device))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # views, all (2 * padding + 1)² of them
    return windows[torch.arange(count, device=x.device), :, top, left]


def crop_resize(x: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The box (N, 4, on the CPU) of each image as floats (N, C, size, size): bilinear, antialiased if it shrinks."""
    if x.is_cpu:
        cut = [
            x[i : i + 1, :, top : top + tall, left : left + wide]
            for i, (top, left, tall, wide) in enumerate(boxes.tolist())
        ]
        return torch.cat([F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True) for part in cut])
    return crop_resize_together(x, boxes, size)


def crop_resize_together(x: Tensor, boxes: Tensor, size: int) -> Tensor:
    """`crop_resize` of all images with two matrix products: few launches for a GPU, much arithmetic for a CPU.

    A pixel is the mean of those of the box around it, weighted by a triangle that is as wide as the scale demands.
    """
    count, channels, height, width = x.shape
    top, left, tall, wide = upload(boxes.float(), x.device).unbind(1)
    with torch.autocast("cuda", enabled=False):  # it would multiply in 16 bits
        lines = x.float().transpose(1, 2).reshape(count, height, -1)
        lines = torch.bmm(_triangles(top, tall, height, size), lines)
        columns = lines.view(count, size * channels, width)
        columns = torch.bmm(columns, _triangles(left, wide, width, size).mT)
    return columns.view(count, size, channels, size).transpose(1, 2)


def line_weights(side: int, size: int) -> Tensor:
    """How much each of `side` lines adds to each of `size` in `resize`, (size, side); size is no smaller."""
    return _triangles(torch.zeros(1), torch.tensor([float(side)]), side, size)[0]


def window_weights(weights: Tensor, padding: int, mode: PaddingMode, first: Tensor, mirrored: Tensor) -> Tensor:
    """`line_weights` of each image, (N, size, side): mirrored (N,) or not, then the window that starts at `first` (N,).

    The window is one of those of `random_window`.
    """
    both = torch.stack([weights, weights.flip(0)])
    size = both.shape[1]
    if mode == "constant":
        padded = F.pad(both, (0, 0, padding, padding))
    else:
        padded = both.index_select(1, _reflected(size, padding, both.device))
    lines = (mirrored * padded.shape[1] + first)[:, None] + torch.arange(size)
    return padded.flatten(0, 1).index_select(0, lines.flatten()).view(*lines.shape, -1)


def weighted_lines(x: Tensor, rows: Tensor, columns: Tensor, shift: Tensor) -> Tensor:
    """`rows @ x @ columns.mT + shift` of each channel, channels last, written once.

    Images (N, C, H, W), weights (N, S, H) and (N, S, W), shift (C,) to (N, C, S, S).
    """
    count, channels, height, width = x.shape
    size = rows.shape[1]
    lines = x.permute(0, 3, 2, 1).reshape(count, width, height * channels)
    wide = torch.bmm(columns, lines).view(count, size, height, channels)
    with_shift = x.new_empty(count, height + 1, size, channels)
    with_shift[:, :height] = wide.transpose(1, 2)
    with_shift[:, height] = shift
    weights = torch.cat([rows, rows.new_ones(count, size, 1)], 2)
    return torch.bmm(weights, with_shift.flatten(2)).view(count, size, size, channels).permute(0, 3, 1, 2)


def affine(x: Tensor, matrices: Tensor, interpolation: Literal["nearest", "bilinear"], fill: int) -> Tensor:
    """uint8 images warped by matrices (N, 2, 3), float32, where the images are.

    `matrices @ (x, y, 1)` is where the pixel at x, y comes from, in px from the centre; outside there is `fill`.
    """
    height, width = x.shape[-2:]
    right = torch.arange(width, device=x.device) - (width - 1) / 2
    down = (torch.arange(height, device=x.device) - (height - 1) / 2)[:, None]
    # No matrix product, of which the last bits of an image may depend on those beside it.
    a, b, c, d, e, f = matrices.reshape(-1, 6, 1, 1).unbind(1)
    across, along = (a * right + c) + b * down, (d * right + f) + e * down
    grid = torch.stack([across.mul_(2 / width), along.mul_(2 / height)], -1)
    # Outside grid_sample takes zeros, so that zero has to be the fill.
    warped = F.grid_sample(x - float(fill), grid, mode=interpolation, padding_mode="zeros", align_corners=False)
    return warped.add_(fill).round_().to(torch.uint8)


def _reflected(side: int, padding: int, device: torch.device) -> Tensor:
    """Which line stands where, (side + 2 * padding,): back and forth, the edges once, as often as the padding needs."""
    period = max(1, 2 * (side - 1))
    place = torch.arange(-padding, side + padding, device=device) % period
    return torch.minimum(place, period - place) if side > 1 else place


def _triangles(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """How much each of `side` pixels adds to each of `size` that share the part from `start` (N,), (N, size, side)."""
    start, scale = start[:, None, None], (length / size)[:, None, None]
    pixel = torch.arange(side, device=start.device) + 0.5
    centre = start + scale * (torch.arange(size, device=start.device) + 0.5)[:, None]
    weights = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel > start) & (pixel < start + length[:, None, None]))
    return weights / weights.sum(-1, keepdim=True)
