"""What autograd keeps of a forward pass: each tensor once, when the first operation asks for it."""

from __future__ import annotations

import math

from .plan import BlockPlan, ConvPlan, LinearPlan, PoolPlan, SqueezeExcitePlan

# These need their input for the gradient; relu and sigmoid make do with their output (torch's derivatives).
_KEEPS_INPUT = frozenset({"silu", "hardswish", "gelu", "hardsigmoid", "relu6"})


class Tape:
    """Walks the layers in the order of the forward pass with the tensor at hand; `kept` counts float32 elements.

    All for one image: the statistics of a batch norm, kept once for the batch, are left out.
    """

    def __init__(self, elements: int, is_kept: bool = False) -> None:
        self.kept = 0
        self.is_kept = is_kept
        self._elements, self._squeezed = elements, 0

    def conv(self, row: ConvPlan) -> None:
        """Convolution, norm, activation."""
        side = max(row.in_resolution, (row.out_resolution - 1) * row.stride + row.kernel_size)
        if row.padding == "same" and side > row.in_resolution:
            self._make(row.in_channels * side**2)  # the padded copy
        self._keep()
        self._make(math.prod(row.output_shape))
        if row.norm is not None:
            self._keep()
            self.kept += 2 * {"batch": 0, "group": row.norm.groups, "layer": row.out_resolution**2}[row.norm.type]
            self._make(self._elements)
        if row.activation is not None:
            if row.activation in _KEEPS_INPUT:
                self._keep()
            self._make(self._elements)
            if row.activation not in _KEEPS_INPUT:
                self._keep()

    def pool(self, row: PoolPlan) -> None:
        """Blur or mean with stride 2."""
        self._keep()
        self._make(math.prod(row.output_shape))

    def squeeze(self, plan: SqueezeExcitePlan) -> None:
        """The first half of squeeze-excite: its input is kept for the product, a mean keeps nothing."""
        self._keep()
        self._squeezed = self._elements
        self._make(plan.reduce.in_channels)
        self.conv(plan.reduce)

    def excite(self, plan: SqueezeExcitePlan) -> None:
        """The other half: the gate, kept, times the input."""
        self.conv(plan.expand)
        self._keep()
        self._make(self._squeezed)

    def add(self, block: BlockPlan) -> None:
        """The sum with the block's input is a new tensor, and keeps neither."""
        if block.skip:
            self.kept += block.drop_path_rate > 0  # the mask
            self._make(self._elements)

    def global_pool(self, pool: str, channels: int) -> None:
        """A mean keeps nothing; a maximum its input and, as int64, where it was."""
        if pool != "avg":
            self._keep()
            self.kept += 2 * channels
        self._make(channels)

    def linear(self, row: LinearPlan, dropout: float) -> None:
        """Dropout, which keeps its mask, and the classifier."""
        if dropout:
            self.kept += row.in_features
            self._make(row.in_features)
        self._keep()

    def _keep(self) -> None:
        self.kept += 0 if self.is_kept else self._elements
        self.is_kept = True

    def _make(self, elements: int) -> None:
        self._elements, self.is_kept = elements, False
