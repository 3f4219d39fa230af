"""CPU kernels for ops that only CUDA has: cuDNN's batch normalization, SyncBatchNorm's parts, dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten
Three = tuple[Tensor, Tensor, Tensor]


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _convolution(x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
    """The layout of cuDNN's result: channels last if either argument is."""
    result = aten.convolution.default(x, weight, *arguments)
    if _is_channels_last(x) or _is_channels_last(weight):
        return result.contiguous(memory_format=torch.channels_last)
    return result.contiguous()


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    results = aten.convolution_backward.default(grad, x, weight, *arguments)
    if not (_is_channels_last(x) or _is_channels_last(weight)):
        return tuple(results)
    last = torch.channels_last
    return tuple(r.contiguous(memory_format=last) if r is not None and r.dim() == 4 else r for r in results)


# --- cuDNN's batch normalization ---


def _cudnn_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    training: bool, momentum: float, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    output, mean, invstd = aten.native_batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps)
    return output, mean, invstd, torch.empty(0, dtype=torch.uint8)


def _cudnn_batch_norm_backward(
    x: Tensor, grad: Tensor, weight: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    mean: Tensor | None, invstd: Tensor | None, eps: float, reserve: Tensor,
) -> Three:  # fmt: skip
    if _is_channels_last(x):
        grad = grad.contiguous(memory_format=torch.channels_last)
    return aten.native_batch_norm_backward(
        grad, x, weight, running_mean, running_var, mean, invstd, True, eps, [True, True, True]
    )


# --- The parts of SyncBatchNorm, in float32 at least, as PyTorch's kernels ---


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _other_dims(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(_wide(x), dim=_other_dims(x), correction=0)
    return mean, (variance + eps).rsqrt()


def _batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    y = (_wide(x) - _over_channels(mean, x)) * _over_channels(invstd, x)
    if weight is not None:
        y = y * _over_channels(weight, x)
    if bias is not None:
        y = y + _over_channels(bias, x)
    return y.to(x.dtype)


def _batch_norm_gather_stats_with_counts(
    x: Tensor, means: Tensor, invstds: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    momentum: float, eps: float, counts: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    fractions = (counts.to(means.dtype) / counts.sum()).view(-1, 1)
    mean = (means * fractions).sum(0)
    variances = invstds.pow(-2) - eps
    variance = ((variances + (means - mean).square()) * fractions).sum(0)
    if running_mean is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    if running_var is not None:
        total = counts.sum()
        running_var.lerp_((variance * (total / (total - 1))).to(running_var.dtype), momentum)
    return mean, (variance + eps).rsqrt()


def _batch_norm_backward_reduce(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, input_g: bool, weight_g: bool,
    bias_g: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    dims = _other_dims(x)
    sum_dy = _wide(grad).sum(dims)
    sum_dy_xmu = (_wide(grad) * (_wide(x) - _over_channels(mean, x))).sum(dims)
    dtype = sum_dy.dtype if weight is None else weight.dtype
    return (
        sum_dy if input_g else None,
        sum_dy_xmu if input_g else None,
        (sum_dy_xmu * invstd).to(dtype) if weight_g else None,
        sum_dy.to(dtype) if bias_g else None,
    )


def _batch_norm_backward_elemt(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, sum_dy: Tensor, sum_dy_xmu: Tensor,
    count: Tensor,
) -> Tensor:  # fmt: skip
    total = count.sum()
    centered = _wide(x) - _over_channels(mean, x)
    scale = invstd if weight is None else invstd * weight
    projection = centered * _over_channels(sum_dy_xmu / total * invstd.square(), x)
    result = (_wide(grad) - _over_channels(sum_dy / total, x) - projection) * _over_channels(scale, x)
    return result.to(x.dtype)


def _native_dropout(
    x: Tensor, p: float, train: bool | None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    if train is False:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p, generator=generator)
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return x * mask * scale, mask


CUDA_ONLY: dict[OpOverload, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.cudnn_batch_norm.default: _cudnn_batch_norm,
    aten.cudnn_batch_norm_backward.default: _cudnn_batch_norm_backward,
    aten.batch_norm_stats.default: _batch_norm_stats,
    aten.batch_norm_elemt.default: _batch_norm_elemt,
    aten.batch_norm_gather_stats_with_counts.default: _batch_norm_gather_stats_with_counts,
    aten.batch_norm_backward_reduce.default: _batch_norm_backward_reduce,
    aten.batch_norm_backward_elemt.default: _batch_norm_backward_elemt,
    aten.native_dropout.default: _native_dropout,
}
