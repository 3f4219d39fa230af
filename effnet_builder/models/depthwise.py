"""Depthwise convolution with an own weight gradient on the CPU, for the shapes at which the library's is slow.

oneDNN leaves its fast kernel where the kernel is larger than the map, and is slow for 5x5 and larger kernels. There the
gradient of a contiguous input is taken from correlation matrices between rows of the input and of the output gradient:
per channel one product over the batch, of which the taps are sums of diagonals. That of a channels-last input is taken
tap by tap, each the sum of one elementwise product.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

Pair = tuple[int, int]

_BAND = 4  # output rows in a product: more waste flops and memory on taps out of reach, fewer are small products
_MAX_WASTE = 9  # products computed per product needed, up to which the batched product is the faster
_MAX_MEMORY = 2  # elements of the correlation matrices per element of the input
_MAX_PIXELS = 64  # of a channels-last map, up to which the sums over taps are the faster
_MIN_ELEMENTS = 1024  # of a channels-last input for each tap, below which the calls are what costs
_CHUNK = 2**19  # elements of a channels-last input that are worked on together, so that they stay in the cache


class Geometry(NamedTuple):
    """How a kernel goes over the map, as (vertical, horizontal)."""

    stride: Pair
    padding: Pair
    dilation: Pair


class DepthwiseConv2d(nn.Conv2d):
    """nn.Conv2d whose weight gradient is computed by `weight_gradient` where that is faster; all else is the library's.

    The library also computes it under compile, export, tracing, autocast, torch.func and in double backward, and for
    every convolution that is not depthwise. The gradients are equal up to rounding.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        depthwise = self.groups == self.in_channels == self.out_channels
        plain = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        trained = torch.is_grad_enabled() and weight.requires_grad
        if depthwise and plain and trained and not is_observed():
            geometry = Geometry(*(cast(Pair, pair) for pair in (self.stride, self.padding, self.dilation)))
            if wins(input, weight, geometry):
                return cast(Tensor, _Convolution.apply(input, weight, bias, geometry))
        return cast(Tensor, super()._conv_forward(input, weight, bias))


def wins(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether `weight_gradient` is faster than the library for x (N, C, H, W) and weight (C, 1, kh, kw).

    It is where the library is slow (a kernel of 5 or more, or larger than the map). Of contiguous inputs if at most 9
    products are computed per product needed, `band * W <= 9 * kh * kw` with `band` the input rows that 4 output rows
    see, and its matrices have at most twice the elements of x; of channels-last inputs if the map has at most 64 px,
    and x at least 1024 elements for each tap that reaches it.
    """
    if x.dim() != 4 or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    if x.dtype != weight.dtype or not (x.is_contiguous() or _is_channels_last(x)):
        return False
    kernel = weight.shape[2:]
    height, width = (_outputs(x, weight, geometry, axis) for axis in (0, 1))
    if height < 1 or width < 1 or (max(kernel) < 5 and kernel[0] <= x.shape[2] and kernel[1] <= x.shape[3]):
        return False
    if _is_channels_last(x):
        taps = len(_spans(x, weight, geometry, 0)) * len(_spans(x, weight, geometry, 1))
        return x.shape[2] * x.shape[3] <= _MAX_PIXELS and x.numel() >= _MIN_ELEMENTS * max(taps, 1)
    rows = min(_BAND, height)
    band = _band(rows, weight, geometry)
    fits = band * rows * width <= _MAX_MEMORY * x.shape[0] * x.shape[2]
    return fits and band * x.shape[3] <= _MAX_WASTE * kernel.numel()


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """(C, 1, kh, kw): the sum over n, a, b of `x[n, c, a s + i d - p, b s + j d - p] * grad[n, c, a, b]`.

    From x (N, C, H, W) and grad (N, C, Ho, Wo). For a channels-last x, it allocates at most 2 MiB in float32, or what
    one image has, and a copy of another grad; for others, beside copies of those that are not contiguous,
    `C * band * W * min(4, Ho) * Wo` elements, and those of the sums over the diagonals of rows.
    """
    if _is_channels_last(x):
        return _sum_over_taps(x, grad, weight, geometry)
    (_, channels, _, width), out_width = x.shape, grad.shape[3]
    kernel, stride, dilation = weight.shape[2:], geometry.stride[0], geometry.dilation[0]
    matrices = _correlate(x.contiguous(), grad.contiguous(), weight, geometry)
    rows = matrices.shape[3]
    columns = x.new_empty(channels, kernel[0], width, out_width)
    for i in range(kernel[0]):
        seen = matrices[:, i * dilation : i * dilation + (rows - 1) * stride + 1 : stride]
        torch.sum(seen.diagonal(0, 1, 3), -1, out=columns[:, i])
    return _fold_columns(columns, kernel[1], geometry).unsqueeze(1)


def _sum_over_taps(x: Tensor, grad: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """`weight_gradient` of a channels-last x: one product and sum for each tap and chunk of the batch."""
    taps = x.new_zeros(*weight.shape[2:], weight.shape[0])
    last = grad.contiguous(memory_format=torch.channels_last)
    count = max(1, _CHUNK // max(1, x[0].numel()))
    rows, columns = (_spans(x, weight, geometry, axis) for axis in (0, 1))
    for first in range(0, x.shape[0], count):
        inputs, grads = (part[first : first + count].permute(0, 2, 3, 1) for part in (x, last))
        for i, (seen_rows, out_rows) in rows.items():
            for j, (seen_columns, out_columns) in columns.items():
                product = inputs[:, seen_rows, seen_columns] * grads[:, out_rows, out_columns]
                taps[i, j] += product.sum((0, 1, 2))
    return taps.permute(2, 0, 1).unsqueeze(1)


def _spans(x: Tensor, weight: Tensor, geometry: Geometry, axis: int) -> dict[int, tuple[slice, slice]]:
    """For each tap of an axis that reaches the map: where it sees the input, and for which outputs."""
    size, outputs, stride = x.shape[2 + axis], _outputs(x, weight, geometry, axis), geometry.stride[axis]
    found = {}
    for tap in range(weight.shape[2 + axis]):
        start = tap * geometry.dilation[axis] - geometry.padding[axis]
        first, end = max(-(start // stride), 0), min((size - 1 - start) // stride + 1, outputs)
        if first < end:
            seen = slice(first * stride + start, (end - 1) * stride + start + 1, stride)
            found[tap] = seen, slice(first, end)
    return found


def _correlate(x: Tensor, grad: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The sum over bands and the batch of input times gradient: (C, band, W, rows, Wo)."""
    (_, channels, height, width), (out_height, out_width) = x.shape, grad.shape[2:]
    rows = min(_BAND, out_height)
    band = _band(rows, weight, geometry)
    matrices = x.new_zeros(channels, band, width, rows, out_width)
    inputs, grads = x.permute(1, 2, 3, 0), grad.permute(1, 0, 2, 3)  # strides that the batched product takes as is
    for first in range(0, out_height, rows):
        top = first * geometry.stride[0] - geometry.padding[0]
        low, high = max(top, 0), min(top + band, height)
        if low < high:
            right = grads[:, :, first : first + rows].flatten(2)
            view = matrices[:, low - top : high - top].view(channels, -1, rows * out_width)
            view[:, :, : right.shape[2]].baddbmm_(inputs[:, low:high].flatten(1, 2), right)
    return matrices


def _fold_columns(columns: Tensor, kernel: int, geometry: Geometry) -> Tensor:
    """(C, kh, W, Wo) to (C, kh, kw): the tap j is the sum of what the outputs b see at `b s + j d - p`."""
    (width, out_width), stride = columns.shape[2:], geometry.stride[1]
    taps = columns.new_zeros(*columns.shape[:2], kernel)
    for j in range(kernel):
        start = j * geometry.dilation[1] - geometry.padding[1]
        first, end = max(-(start // stride), 0), min((width - 1 - start) // stride + 1, out_width)
        if first < end:
            seen = columns[:, :, first * stride + start : (end - 1) * stride + start + 1 : stride, first:end]
            torch.sum(seen.diagonal(0, 2, 3), -1, out=taps[:, :, j])
    return taps


def _outputs(x: Tensor, weight: Tensor, geometry: Geometry, axis: int) -> int:
    reach = (weight.shape[2 + axis] - 1) * geometry.dilation[axis]
    return (x.shape[2 + axis] + 2 * geometry.padding[axis] - reach - 1) // geometry.stride[axis] + 1


def _band(rows: int, weight: Tensor, geometry: Geometry) -> int:
    """Input rows that consecutive output rows see."""
    return (rows - 1) * geometry.stride[0] + (weight.shape[2] - 1) * geometry.dilation[0] + 1


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def is_observed() -> bool:
    """Whether somebody records, transforms or casts operations, and is to find the library's."""
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


class _Convolution(torch.autograd.Function):
    """The library's depthwise convolution, with our weight gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        """(N, C, H, W) to (N, C, Ho, Wo)."""
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, bias, *geometry, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Ours for the weight, unless this pass is itself recorded or transformed."""
        (grad,), (x, weight), geometry = grads, ctx.saved_tensors, ctx.geometry
        input_needed, weight_needed, bias_needed, _ = ctx.needs_input_grad
        batched = torch._C._functorch.is_legacy_batchedtensor(grad)  # of `torch.autograd.grad(is_grads_batched=True)`
        ours = weight_needed and not (torch.is_grad_enabled() or batched or is_observed())
        stride, padding, dilation = geometry
        channels = weight.shape[0]
        by_library = torch.ops.aten.convolution_backward(
            grad, x, weight, [channels], stride, padding, dilation, False, [0, 0], channels,
            [input_needed, weight_needed and not ours, bias_needed],
        )  # fmt: skip
        grad_weight = weight_gradient(x, grad, weight, geometry) if ours else by_library[1]
        return by_library[0], grad_weight, by_library[2], None
