"""The buffers of a module that training changes, as tensors: to restore them, and to average them over processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


def _flat(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.reshape(-1) for buffer in buffers]) if buffers else torch.zeros(0)


def _fill(buffers: list[Tensor], values: Tensor) -> None:
    if buffers:
        parts = values.split([buffer.numel() for buffer in buffers])
        shaped = [part.view(buffer.shape) for part, buffer in zip(parts, buffers, strict=True)]
        torch._foreach_copy_(buffers, shaped)
