"""What a diagram shows of a plan, column by column: stem, stages, head, each with its boxes and its cells."""

from __future__ import annotations

from dataclasses import dataclass

from ..arch.analysis import Analysis, Cost
from ..arch.plan import BlockPlan, ConvPlan, GroupPlan, HeadPlan, Plan, StagePlan
from ..arch.summary import si

HEADINGS = ("type", "blocks", "expand, kernels", "px", "channels", "params", "MACs")
_LONG_WORD = 12


@dataclass(frozen=True, slots=True)
class Box:
    """A block, or a layer outside the stages, by its output: (channels, resolution, resolution)."""

    path: str
    type: str
    channels: int
    resolution: int


@dataclass(frozen=True, slots=True)
class Column:
    """A part of the network: its boxes, row group by row group, one cell for each of the headings, and its cost."""

    name: str
    groups: tuple[tuple[Box, ...], ...]
    cells: tuple[str, ...]
    cost: Cost

    @property
    def boxes(self) -> tuple[Box, ...]:
        """All boxes in order."""
        return tuple(box for group in self.groups for box in group)


def columns(plan: Plan, analysis: Analysis) -> tuple[Column, ...]:
    """The parts of a network in the order of the forward pass."""
    stages = [
        _stage(f"stages[{i}]", stage, cost)
        for i, (stage, cost) in enumerate(zip(plan.stages, analysis.stages, strict=True))
    ]
    return _stem(plan, analysis.stem), *stages, _head(plan, analysis.head)


def _stem(plan: Plan, cost: Cost) -> Column:
    stem = plan.stem
    box = Box(stem.path, "conv", stem.out_channels, stem.out_resolution)
    shape = _arrow(stem.in_resolution, stem.out_resolution), _arrow(stem.in_channels, stem.out_channels)
    return Column("stem", ((box,),), ("conv", "", _kernels(stem), *shape, *_costs(cost)), cost)


def _stage(name: str, stage: StagePlan, cost: Cost) -> Column:
    first, last = stage.blocks[0].convs[0], stage.blocks[-1]
    cells = (
        "\n".join(_broken(word) for word in dict.fromkeys(group.type for group in stage.groups)),
        str(len(stage.blocks)),
        "\n".join(_row(group, alone=len(stage.groups) == 1) for group in stage.groups),
        _arrow(first.in_resolution, last.out_resolution),
        _arrow(first.in_channels, last.convs[-1].out_channels),
        *_costs(cost),
    )
    groups = tuple(tuple(_box(block) for block in group.blocks) for group in stage.groups)
    return Column(name, groups, cells, cost)


def _head(plan: Plan, cost: Cost) -> Column:
    head, end = plan.head, plan.blocks[-1]
    boxes = []
    if head.conv is not None:
        boxes.append(Box(head.conv.path, "conv", head.conv.out_channels, head.conv.out_resolution))
    if head.classifier is not None:
        boxes.append(Box(head.classifier.path, "linear", head.classifier.out_features, 1))
    shape = _arrow(end.out_resolution, 1), _arrow(end.convs[-1].out_channels, head.hidden_size)
    kernel = "" if head.conv is None else _kernels(head.conv)
    return Column("head", (tuple(boxes),), (_order(head), "", kernel, *shape, *_costs(cost)), cost)


def _box(block: BlockPlan) -> Box:
    return Box(block.path, block.type, block.convs[-1].out_channels, block.out_resolution)


def _order(head: HeadPlan) -> str:
    parts = ["pool"] if head.conv is None else ["pool", "conv"] if head.pool_first else ["conv", "pool"]
    return ", ".join(parts + ([] if head.classifier is None else ["linear"]))


def _row(group: GroupPlan, alone: bool) -> str:
    """`×6, 5×5`: how far the blocks widen, and their kernels but for 1×1; `3 of ×6, 5×5` where there are others."""
    convs = group.blocks[0].convs
    ratio = max(conv.out_channels for conv in convs[:-1]) / convs[0].in_channels if convs[1:] else 0
    widening = f"×{ratio:.3g}, " if ratio and group.type != "depthwise_separable" else ""
    return f"{'' if alone else f'{len(group.blocks)} of '}{widening}{_kernels(*convs)}"


def _kernels(*convs: ConvPlan) -> str:
    sizes = [conv.kernel_size for conv in convs if conv.kernel_size > 1] or [1]
    return " ".join(f"{size}×{size}" for size in sizes)


def _broken(word: str) -> str:
    """A long name on several lines, so that it needs no wide column."""
    return word if len(word) <= _LONG_WORD else word.replace("_", "_\n")


def _arrow(before: int, after: int) -> str:
    return f"{before} → {after}"


def _costs(cost: Cost) -> tuple[str, str]:
    return f"{cost.params:,}", si(cost.macs)
