"""1x1 convolution in training on the CPU as a matrix product, for the maps at which the library is slow."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import is_observed

_MAX_PIXELS = 4  # beyond, oneDNN's convolution is as fast as its product


class PointwiseConv2d(nn.Conv2d):
    """nn.Conv2d that trains 1x1 convolutions of tiny maps (squeeze-excite) by `F.linear`; all else is the library's.

    oneDNN first brings the weights of a convolution into a layout of its own, which for a map of 1 px takes longer than
    the product. The library also computes it where no gradient of the weight is wanted, and under compile, export,
    tracing, autocast and torch.func. The results are equal up to rounding.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        trained = torch.is_grad_enabled() and weight.requires_grad
        if trained and not is_observed() and self._is_product(weight) and is_tiny(input, weight):
            rows = F.linear(input.permute(0, 2, 3, 1), weight.flatten(1), bias)
            return rows.permute(0, 3, 1, 2)
        return cast(Tensor, super()._conv_forward(input, weight, bias))

    def _is_product(self, weight: Tensor) -> bool:
        sizes = (*weight.shape[2:], *self.stride, self.groups)
        return all(size == 1 for size in sizes) and not isinstance(self.padding, str) and not any(self.padding)


def is_tiny(x: Tensor, weight: Tensor) -> bool:
    """Whether x (N, C, H, W) has at most 4 px, channels last, on a CPU; a map of 1 px is in any layout."""
    if x.dim() != 4 or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    tiny = x.dtype == weight.dtype and 0 < x.shape[2] * x.shape[3] <= _MAX_PIXELS
    return tiny and x.is_contiguous(memory_format=torch.channels_last)
