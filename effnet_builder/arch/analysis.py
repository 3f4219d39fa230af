"""What a plan costs: params, buffers, MACs, activations and memory, of each layer, stage and the whole network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from .plan import ConvPlan, HeadPlan, LinearPlan, MBConvPlan, Plan

# These need their input for the gradient; relu and sigmoid make do with their output (torch's derivatives).
_KEEPS_INPUT = frozenset({"silu", "hardswish", "gelu", "hardsigmoid", "relu6"})


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of a layer or of several together, for one image.

    params: elements of trainable tensors. buffers: elements of norm statistics, counters included. macs: multiply-adds
    of convolutions and linear layers. activations: elements of their outputs. saved: elements that the backward pass
    keeps in memory.
    """

    params: int = 0
    buffers: int = 0
    macs: int = 0
    activations: int = 0
    saved: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Cost)))


@dataclass(frozen=True, slots=True)
class RowCost:
    """One layer and what it costs."""

    row: ConvPlan | LinearPlan
    cost: Cost


@dataclass(frozen=True, slots=True)
class Analysis:
    """The costs of a plan: `rows` in the order of the forward pass, and their sums."""

    rows: tuple[RowCost, ...]
    stem: Cost
    stages: tuple[Cost, ...]
    head: Cost
    total: Cost
    norms: int

    @property
    def weight_bytes(self) -> int:
        """Size of the state dict in float32; the counters of the norms are int64."""
        return 4 * (self.total.params + self.total.buffers - self.norms) + 8 * self.norms

    @property
    def training_bytes_per_image(self) -> int:
        """Estimate of what one image adds to the memory of a float32 training step: activations kept for backward."""
        return 4 * self.total.saved


def analyze(plan: Plan) -> Analysis:
    """Count a plan, at the plan's resolution."""
    stem = [RowCost(plan.stem, _conv(plan.stem) + Cost(saved=plan.in_channels * plan.resolution**2))]
    stages = [[cost for block in stage.blocks for cost in _block(block)] for stage in plan.stages]
    head = _head(plan.head)
    rows = (*stem, *(cost for stage in stages for cost in stage), *head)
    return Analysis(
        rows=rows,
        stem=_sum(stem),
        stages=tuple(_sum(stage) for stage in stages),
        head=_sum(head),
        total=_sum(rows),
        norms=sum(isinstance(cost.row, ConvPlan) and cost.row.norm is not None for cost in rows),
    )


def _block(block: MBConvPlan) -> list[RowCost]:
    costs = [RowCost(row, _conv(row)) for row in block.rows]
    expansion, depthwise = block.expansion, block.depthwise
    if expansion and depthwise.padding == "same" and expansion.activation not in _KEEPS_INPUT:
        # The activation keeps its output, the depthwise convolution a padded copy of it.
        costs[1] = RowCost(depthwise, costs[1].cost + Cost(saved=costs[0].cost.activations))
    if block.squeeze_excite is not None:
        # The pooled input of `reduce`, and the product with the gate: the input of the projection.
        kept = depthwise.out_channels * (1 + depthwise.out_resolution**2)
        gate = costs[-2]
        costs[-2] = RowCost(gate.row, gate.cost + Cost(saved=kept))
    return costs


def _head(head: HeadPlan) -> list[RowCost]:
    conv, classifier = _conv(head.conv), _linear(head.classifier)
    if head.conv.activation in _KEEPS_INPUT:
        conv += Cost(saved=-conv.activations)  # nobody needs the activation's output: the pooling that follows does not
    if head.dropout:
        classifier += Cost(saved=head.classifier.in_features)  # the mask
    return [RowCost(head.conv, conv), RowCost(head.classifier, classifier)]


def _conv(row: ConvPlan) -> Cost:
    outputs = math.prod(row.output_shape)
    params, buffers, saved = math.prod(row.weight_shape), 0, outputs
    macs = params * row.out_resolution**2
    if row.bias:
        params += row.out_channels
    if row.norm is not None:
        params += 2 * row.out_channels
        buffers = 2 * row.out_channels + 1
        # The norm keeps its input and the batch's mean and variance; whatever follows keeps the norm's output.
        saved += outputs + 2 * row.out_channels
    if row.activation in _KEEPS_INPUT:
        saved += outputs
    if row.padding == "same":  # the convolution keeps the padded copy of its input
        side = max(row.in_resolution, (row.out_resolution - 1) * row.stride + row.kernel_size)
        saved += row.in_channels * (side**2 - row.in_resolution**2)
    return Cost(params, buffers, macs, outputs, saved)


def _linear(row: LinearPlan) -> Cost:
    macs = row.in_features * row.out_features
    params = macs + (row.out_features if row.bias else 0)
    return Cost(params, 0, macs, row.out_features, row.in_features)


def _sum(costs: Iterable[RowCost]) -> Cost:
    return sum((cost.cost for cost in costs), Cost())
