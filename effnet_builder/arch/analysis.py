"""What a plan costs: params, buffers, MACs, activations and memory, of each layer, stage and the whole network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from .plan import BlockPlan, ConvPlan, HeadPlan, LayerPlan, LinearPlan, Plan, PoolPlan, SqueezeExcitePlan

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

    row: LayerPlan
    cost: Cost


@dataclass(frozen=True, slots=True)
class Analysis:
    """The costs of a plan: `rows` in the order of the forward pass, and their sums; `groups` within the stages.

    state_elements are those of the state dict, counters those of them that are int64.
    """

    rows: tuple[RowCost, ...]
    stem: Cost
    stages: tuple[Cost, ...]
    groups: tuple[tuple[Cost, ...], ...]
    head: Cost
    total: Cost
    state_elements: int
    counters: int

    @property
    def weight_bytes(self) -> int:
        """Size of the state dict in float32; the counters of the norms are int64."""
        return 4 * (self.state_elements - self.counters) + 8 * self.counters

    @property
    def training_bytes_per_image(self) -> int:
        """Estimate of what one image adds to the memory of a float32 training step: activations kept for backward."""
        return 4 * self.total.saved


def analyze(plan: Plan) -> Analysis:
    """Count a plan, at the plan's resolution."""
    stem = [RowCost(plan.stem, _conv(plan.stem) + Cost(saved=plan.in_channels * plan.resolution**2))]
    groups = [
        [[cost for block in group.blocks for cost in _block(block)] for group in stage.groups] for stage in plan.stages
    ]
    stages = [[cost for group in stage for cost in group] for stage in groups]
    head = _head(plan.head)
    rows = (*stem, *(cost for stage in stages for cost in stage), *head)
    total = _sum(rows)
    filters = sum(cost.cost.buffers for cost in rows if isinstance(cost.row, PoolPlan))  # not in the state dict
    return Analysis(
        rows=rows,
        stem=_sum(stem),
        stages=tuple(_sum(stage) for stage in stages),
        groups=tuple(tuple(_sum(group) for group in stage) for stage in groups),
        head=_sum(head),
        total=total,
        state_elements=total.params + total.buffers - filters,
        counters=sum(_has_statistics(cost.row) for cost in rows),
    )


def _block(block: BlockPlan) -> list[RowCost]:
    costs: list[RowCost] = []
    before: ConvPlan | PoolPlan | None = None
    for layer in block.layers:
        if isinstance(layer, SqueezeExcitePlan):
            assert before is not None
            # The pooled input of `reduce`, and the product with the gate: the input of what follows.
            kept = math.prod(before.output_shape) + layer.reduce.in_channels
            costs.append(RowCost(layer.reduce, _conv(layer.reduce)))
            costs.append(RowCost(layer.expand, _conv(layer.expand) + Cost(saved=kept)))
            continue
        if isinstance(layer, PoolPlan):
            costs.append(RowCost(layer, _pool(layer)))
        else:
            cost = _conv(layer)
            if isinstance(before, ConvPlan) and layer.padding == "same" and before.activation not in _KEEPS_INPUT:
                # The activation keeps its output, the convolution a padded copy of it.
                cost += Cost(saved=costs[-1].cost.activations if before.activation else 0)
            costs.append(RowCost(layer, cost))
        before = layer
    return costs


def _head(head: HeadPlan) -> list[RowCost]:
    costs: list[RowCost] = []
    if head.conv is not None:
        cost = _conv(head.conv)
        if head.conv.activation in _KEEPS_INPUT:
            cost += Cost(saved=-cost.activations)  # nobody needs the activation's output: what follows keeps its own
        costs.append(RowCost(head.conv, cost))
    if head.classifier is not None:
        cost = _linear(head.classifier)
        if head.dropout:
            cost += Cost(saved=head.classifier.in_features)  # the mask
        costs.append(RowCost(head.classifier, cost))
    return costs


def _pool(row: PoolPlan) -> Cost:
    outputs = math.prod(row.output_shape)
    if row.type == "avg":
        return Cost(saved=outputs)
    return Cost(buffers=9 * row.channels, macs=9 * outputs, activations=outputs, saved=outputs)


def _conv(row: ConvPlan) -> Cost:
    outputs = math.prod(row.output_shape)
    params, buffers, saved = math.prod(row.weight_shape), 0, outputs
    macs = params * row.out_resolution**2
    if row.bias:
        params += row.out_channels
    if row.norm is not None:
        params += 2 * row.out_channels
        buffers = 2 * row.out_channels + 1 if _has_statistics(row) else 0
        # The norm keeps its input, and the mean and variance of what it takes together; what follows keeps its output.
        statistics = {"batch": row.out_channels, "group": row.norm.groups, "layer": row.out_resolution**2}
        saved += outputs + 2 * statistics[row.norm.type]
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


def _has_statistics(row: LayerPlan) -> bool:
    """Whether a batch norm counts the batches that it has seen."""
    return isinstance(row, ConvPlan) and row.norm is not None and row.norm.type == "batch"


def _sum(costs: Iterable[RowCost]) -> Cost:
    return sum((cost.cost for cost in costs), Cost())
