"""Operations on the colours of uint8 images (N, C, H, W), each image with a strength of its own.

They give what torchvision's `transforms.v2.functional` gives for each image, cut to whole levels as there. Where it
blends, rounding may bring the result one level apart: sums here are whole numbers or taken pixel by pixel, so that an
image does not depend on those beside it nor on the device. Strengths are float32 (N, 1, 1, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX = 255


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """`factor * x`, per channel."""
    return (x * factor).clamp_(0, _MAX).to(torch.uint8)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """From grey (0) to the colours (1) and beyond; images that are not of three channels stay as they are."""
    return _blend(x, _luma(x), factor) if x.shape[1] == 3 else x


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """From the mean (0) to the image (1) and beyond: the mean of the luma of three channels, else of all channels."""
    grey = _luma(x) if x.shape[1] == 3 else x
    total = grey.sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    return _blend(x, total.float() / grey[0].numel(), factor)


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """From smooth (0) to the image (1) and beyond, but for the pixels at the edge; images of 2 px stay as they are."""
    if min(x.shape[-2:]) <= 2:
        return x
    pixels = x.float()
    inner = pixels[..., 1:-1, 1:-1]
    columns = (pixels[..., :-2, :] + pixels[..., 1:-1, :]).add_(pixels[..., 2:, :])
    around = (columns[..., :-2] + columns[..., 1:-1]).add_(columns[..., 2:])
    smooth = around.add_(inner, alpha=4).div_(13).round_()  # weights 1, in the centre 5
    sharpened = x.clone()
    sharpened[..., 1:-1, 1:-1] = _blend(inner, smooth, factor)
    return sharpened


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """The upper `bits` (0 to 8) of each level."""
    return x & (256 - 2 ** (8 - bits)).to(torch.uint8)


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Inverted where a level is no less than the threshold."""
    return torch.where(x >= threshold, _MAX - x, x)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel stretched to the whole range; one of a single level stays as it is."""
    low = x.amin((2, 3), keepdim=True).float()
    span = x.amax((2, 3), keepdim=True).float() - low
    flat = span == 0
    low = torch.where(flat, 0, low)
    scale = torch.where(flat, 1, span * (1 / _MAX))
    return (x - low).div_(scale).clamp_(0, _MAX).to(torch.uint8)


def equalize(x: Tensor) -> Tensor:
    """Each channel with an even histogram, by Pillow's rule; one with too few levels to spread stays as it is."""
    levels = x.flatten(2).long()
    histogram = torch.zeros(*levels.shape[:2], _MAX + 1, dtype=torch.int32, device=x.device)
    histogram.scatter_add_(2, levels, histogram.new_ones(()).expand_as(levels))
    brightest = histogram.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // _MAX
    below = histogram.cumsum(2) - histogram
    new = ((below + step // 2) // step.clamp(min=1)).clamp_(0, _MAX)
    new = torch.where(step > 0, new, torch.arange(_MAX + 1, device=x.device))
    return new.to(torch.uint8).gather(2, levels).view_as(x)


def invert(x: Tensor) -> Tensor:
    """`255 - x`."""
    return _MAX - x


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """From `other` (0) to the image (1) and beyond."""
    return (x - other).mul_(factor).add_(other).clamp_(0, _MAX).to(torch.uint8)


def _luma(x: Tensor) -> Tensor:
    """Whole levels of grey (N, 1, H, W) as floats, with torchvision's weights."""
    red, green, blue = x.unbind(1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114).floor_()[:, None]
