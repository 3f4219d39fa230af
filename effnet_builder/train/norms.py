"""The running statistics of a module's norms as one tensor: to restore them, and to average them over processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NormStatistics:
    """The floating-point buffers of a module."""

    def __init__(self, model: nn.Module) -> None:
        self.buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]

    def gather(self) -> Tensor:
        """All of them in one flat copy."""
        return torch.cat([buffer.reshape(-1) for buffer in self.buffers]) if self.buffers else torch.zeros(0)

    def scatter(self, values: Tensor) -> None:
        """Give them the values of a flat copy."""
        if self.buffers:
            parts = values.split([buffer.numel() for buffer in self.buffers])
            shaped = [part.view(buffer.shape) for part, buffer in zip(parts, self.buffers, strict=True)]
            torch._foreach_copy_(self.buffers, shaped)
