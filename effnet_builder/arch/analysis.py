"""What a plan costs: params, buffers, MACs, activations and memory, of each layer, stage and the whole network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..precisions import Precision, kept_bytes
from .memory import Tape
from .plan import BlockPlan, ConvPlan, HeadPlan, LayerPlan, LinearPlan, Plan, PoolPlan


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of a layer or of several together, for one image.

    params: elements of trainable tensors. buffers: elements of norm statistics, counters included. macs: multiply-adds
    of convolutions and linear layers. activations: elements of their outputs. saved: elements that the backward pass
    keeps in memory. weight_bytes: of the float32 state dict.
    """

    params: int = 0
    buffers: int = 0
    macs: int = 0
    activations: int = 0
    saved: int = 0
    weight_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.params + other.params,
            self.buffers + other.buffers,
            self.macs + other.macs,
            self.activations + other.activations,
            self.saved + other.saved,
            self.weight_bytes + other.weight_bytes,
        )


@dataclass(frozen=True, slots=True)
class RowCost:
    """One layer and what it costs."""

    row: LayerPlan
    cost: Cost


@dataclass(frozen=True, slots=True)
class Analysis:
    """The costs of a plan: `rows` in the order of the forward pass, and their sums; `groups` within the stages."""

    rows: tuple[RowCost, ...]
    stem: Cost
    stages: tuple[Cost, ...]
    groups: tuple[tuple[Cost, ...], ...]
    head: Cost
    total: Cost

    @property
    def weight_bytes(self) -> int:
        """Size of the state dict in float32."""
        return self.total.weight_bytes

    @property
    def training_bytes_per_image(self) -> int:
        """Estimate of what one image adds to the memory of a float32 training step: activations kept for backward."""
        return 4 * self.total.saved

    def training_bytes(self, images: int, precision: Precision) -> int:
        """Estimate of what a training step on so many images keeps for its backward pass."""
        return kept_bytes(precision, images * self.training_bytes_per_image, self.weight_bytes)


def analyze(plan: Plan) -> Analysis:
    """Count a plan, at the plan's resolution."""
    counter = Counter(Tape(plan.in_channels * plan.resolution**2))
    stem = [counter.conv(plan.stem)]
    groups = [
        [[cost for block in group.blocks for cost in counter.block(block)] for group in stage.groups]
        for stage in plan.stages
    ]
    stages = [[cost for group in stage for cost in group] for stage in groups]
    head = list(counter.head(plan.head))
    rows = (*stem, *(cost for stage in stages for cost in stage), *head)
    pooling = Cost(saved=counter.tape.kept - counter.counted)  # has no row; another row behind it takes what it keeps
    return Analysis(
        rows=rows,
        stem=_sum(stem),
        stages=tuple(_sum(stage) for stage in stages),
        groups=tuple(tuple(_sum(group) for group in stage) for stage in groups),
        head=_sum(head) + pooling,
        total=_sum(rows) + pooling,
    )


class Counter:
    """Goes through a plan in the order of the forward pass; `kept` goes to the row that makes autograd keep it."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.counted = tape.kept

    def conv(self, row: ConvPlan) -> RowCost:
        """A convolution with norm and activation."""
        self.tape.conv(row)
        return self._row(row, _conv(row))

    def block(self, block: BlockPlan) -> Iterator[RowCost]:
        """The layers of a block, and the sum with its input."""
        for layer in block.layers:
            if isinstance(layer, ConvPlan):
                yield self.conv(layer)
            elif isinstance(layer, PoolPlan):
                self.tape.pool(layer)
                yield self._row(layer, _pool(layer))
            else:
                self.tape.squeeze(layer)
                yield self._row(layer.reduce, _conv(layer.reduce))
                self.tape.excite(layer)
                yield self._row(layer.expand, _conv(layer.expand))
        self.tape.add(block)

    def head(self, head: HeadPlan) -> Iterator[RowCost]:
        """What follows the stages."""
        if head.conv is not None and not head.pool_first:
            yield self.conv(head.conv)
        self.tape.global_pool(head.pool, head.pooled_size)
        if head.conv is not None and head.pool_first:
            yield self.conv(head.conv)
        if head.classifier is not None:
            self.tape.linear(head.classifier, head.dropout)
            yield self._row(head.classifier, _linear(head.classifier))

    def _row(self, row: LayerPlan, cost: Cost) -> RowCost:
        saved, self.counted = self.tape.kept - self.counted, self.tape.kept
        return RowCost(row, replace(cost, saved=saved))


def _pool(row: PoolPlan) -> Cost:
    if row.type == "avg":
        return Cost()
    outputs = math.prod(row.output_shape)
    return Cost(buffers=9 * row.channels, macs=9 * outputs, activations=outputs)


def _conv(row: ConvPlan) -> Cost:
    weights, outputs = math.prod(row.weight_shape), math.prod(row.output_shape)
    params = weights + (row.out_channels if row.bias else 0) + (2 * row.out_channels if row.norm is not None else 0)
    macs = weights * row.out_resolution**2
    if row.norm is None or row.norm.type != "batch":
        return Cost(params, 0, macs, outputs, weight_bytes=4 * params)
    # Mean and variance of each channel, and how many batches were seen, as int64.
    return Cost(params, 2 * row.out_channels + 1, macs, outputs, weight_bytes=4 * (params + 2 * row.out_channels) + 8)


def _linear(row: LinearPlan) -> Cost:
    macs = row.in_features * row.out_features
    params = macs + (row.out_features if row.bias else 0)
    return Cost(params, 0, macs, row.out_features, weight_bytes=4 * params)


def _sum(costs: Iterable[RowCost]) -> Cost:
    return sum((cost.cost for cost in costs), Cost())
