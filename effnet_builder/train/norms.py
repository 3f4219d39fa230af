"""Norms over processes: the buffers that training changes, as tensors; batch norm over the batch of all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_local = False


class NormStatistics:
    """The floating-point buffers of a module, and its whole numbers: how many batches the others are of."""

    def __init__(self, model: nn.Module) -> None:
        self.buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.counts = [buffer for buffer in model.buffers() if not buffer.is_floating_point()]
        self.counted = _flat(self.counts)
        self.device = next((parameter.device for parameter in model.parameters()), None)

    def gather(self) -> Tensor:
        """The statistics in one flat copy."""
        return _flat(self.buffers) if self.buffers else torch.zeros(0, device=self.device)

    def scatter(self, values: Tensor) -> None:
        """Give them the values of a flat copy."""
        _fill(self.buffers, values)

    def uncount(self, bad: Tensor) -> None:
        """If the step is bad, the whole numbers become what they were when this was made; the device decides."""
        if self.counts:
            _fill(self.counts, torch.where(bad, self.counted, _flat(self.counts)))


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose mean and variance in training are those of the images of all processes, on any device.

    From n, the sum of x and the sum of x^2 of each process, in one exchange: `mean = sum(x) / n`, `var = sum(x^2) / n -
    mean^2`, `y = (x - mean) / sqrt(var + eps) * weight + bias`. All processes must run the same layers.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """(N, C, H, W) to the same shape and type."""
        # Without gradients it is no step of training, and each process measures statistics for itself.
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(input)
        mean, var, n = _moments(input.float() if input.dtype in (torch.float16, torch.bfloat16) else input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.running_mean is not None and self.running_var is not None and self.momentum is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_((var * n / (n - 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt().to(self.weight.dtype)
        shift = self.bias - mean.to(scale.dtype) * scale
        return (input * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).to(input.dtype)


def synchronize_norms(model: nn.Module) -> None:
    """Make every batch norm of a module one over all processes, in place: names and tensors stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d  # a new module would be another one for those who hold the old


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), variance (C,) and count () over the images (N, C, H, W) of all processes, in float64.

    In float64, because a difference of large sums is taken; they are small tensors.
    """
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    var, mean = var.double(), mean.double()
    n = x.numel() // x.shape[1]
    sums = torch.cat([mean * n, (var + mean.square()) * n, mean.new_full((1,), n)])
    total: Tensor = _Sum.apply(sums)
    mean, square = total[:-1].div(total[-1]).chunk(2)
    return mean, square - mean.square(), total[-1].detach()


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes. What each process makes of it depends on the parts of all."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _summed(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(part: Tensor) -> Tensor:
    total = part.clone()
    if not _local:
        dist.all_reduce(total)
    return total


@contextmanager
def local_statistics() -> Iterator[None]:
    """Let SyncBatchNorm2d take the images of this process alone inside, for a step that the others do not make."""
    global _local
    _local = True
    try:
        yield
    finally:
        _local = False


def _flat(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.reshape(-1) for buffer in buffers]) if buffers else torch.zeros(0)


def _fill(buffers: list[Tensor], values: Tensor) -> None:
    if buffers:
        parts = values.split([buffer.numel() for buffer in buffers])
        shaped = [part.view(buffer.shape) for part, buffer in zip(parts, buffers, strict=True)]
        torch._foreach_copy_(buffers, shaped)
