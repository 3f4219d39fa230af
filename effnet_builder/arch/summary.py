"""A plan and its costs as a table for people or as JSON data: formatting only, every number comes from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from ..config import printable
from .analysis import Analysis, Cost
from .plan import BlockPlan, ConvPlan, GroupPlan, HeadPlan, Plan

_NOTES = (
    "MACs: multiply-adds of convolutions and linear layers, one image. Activations: elements of their outputs.",
    "Memory in float32: weights {weights}; training keeps about {training} for each image.",
)
_UNITS = ("", " k", " M", " G", " T", " P", " E")


def render_summary(plan: Plan, analysis: Analysis) -> str:
    """The stage table, its sum, and the totals to the last digit."""
    header = ("part", "type", "blocks", "px", "channels", "params", "MACs", "activations")
    rows = [_row("stem", conv_type("conv", plan.stem), "", _of_conv(plan.stem), analysis.stem)]
    for stage, costs in zip(plan.stages, analysis.groups, strict=True):
        for group, cost in zip(stage.groups, costs, strict=True):
            rows.append(_row(group.name, group_type(group), str(len(group.blocks)), _of_blocks(group.blocks), cost))
    rows.append(_row("head", head_type(plan.head), "", _of_head(plan), analysis.head))
    total = analysis.total
    sums = (f"{total.params:,}", si(total.macs), si(total.activations))
    rows.append(("total", "", str(len(plan.blocks)), "", "", *sums))
    notes = [
        note.format(weights=si(analysis.weight_bytes, "B"), training=si(analysis.training_bytes_per_image, "B"))
        for note in _NOTES
    ]
    title = f"{plan.name}: depth {plan.depth:.4g}, width {plan.width:.4g}, {plan.resolution} px, "
    title += f"{plan.num_classes:,} classes"
    return "\n".join([title, "", *align(header, rows, left=2, sums=1), "", *notes, totals_line(plan, analysis)])


def totals_line(plan: Plan, analysis: Analysis) -> str:
    """`name: params, MACs at px`, to the last digit."""
    return f"{plan.name}: {counts_line(plan, analysis)}"


def counts_line(plan: Plan, analysis: Analysis) -> str:
    """`params, MACs at px`, to the last digit."""
    return f"{analysis.total.params:,} params, {analysis.total.macs:,} MACs at {plan.resolution} px"


def summary_data(plan: Plan, analysis: Analysis) -> dict[str, object]:
    """The summary as plain data, ready for JSON. Resolutions in px, memory in bytes (float32)."""
    stages = []
    for i, (stage, cost, costs) in enumerate(zip(plan.stages, analysis.stages, analysis.groups, strict=True)):
        rows = [
            {
                "name": group.name,
                "type": group.type,
                **_part_data(len(group.blocks), _of_blocks(group.blocks), row_cost),
            }
            for group, row_cost in zip(stage.groups, costs, strict=True)
        ]
        whole = _part_data(len(stage.blocks), _of_blocks(stage.blocks), cost)
        stages.append({"name": f"stages[{i}]", **whole, "rows": rows})
    return {
        "name": plan.name,
        "resolution": plan.resolution,
        "in_channels": plan.in_channels,
        "num_classes": plan.num_classes,
        "depth": plan.depth,
        "width": plan.width,
        **_cost_data(analysis.total),
        "weight_bytes": analysis.weight_bytes,
        "training_bytes_per_image": analysis.training_bytes_per_image,
        "features": [
            {"name": tap.path, "channels": tap.channels, "reduction": tap.reduction, "resolution": tap.resolution}
            for tap in plan.features
        ],
        "stem": {"name": "stem", "type": "conv", **_part_data(None, _of_conv(plan.stem), analysis.stem)},
        "stages": stages,
        "head": {"name": "head", "type": plan.spec.head.order, **_part_data(None, _of_head(plan), analysis.head)},
    }


def align(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, sums: int = 0, texts: Container[int] = ()
) -> list[str]:
    """A table as lines, with a rule above the last `sums` rows; the first `left` columns and `texts` are flush left."""
    table = [tuple(map(printable, cells)) for cells in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left or i in texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    rule = "-" * max(map(len, lines))
    lines.insert(1, rule)
    if sums:
        lines.insert(len(lines) - sums, rule)
    return lines


def si(value: float, unit: str = "") -> str:
    """Four significant digits with a decimal prefix: `385.8 M`, `21.32 MB`."""
    prefix = 0
    while value >= 999.95 and prefix < len(_UNITS) - 1:
        value, prefix = value / 1000, prefix + 1
    digits = 0 if prefix == 0 else 3 if value < 9.9995 else 2 if value < 99.995 else 1
    separator = " " if unit and prefix == 0 else ""
    return f"{value:.{digits}f}{_UNITS[prefix]}{separator}{unit}"


class _Span(NamedTuple):
    """What goes into a part and what comes out."""

    in_resolution: int
    out_resolution: int
    in_channels: int
    out_channels: int


def _of_conv(row: ConvPlan) -> _Span:
    return _Span(row.in_resolution, row.out_resolution, row.in_channels, row.out_channels)


def _of_blocks(blocks: Sequence[BlockPlan]) -> _Span:
    first, last = blocks[0].convs[0], blocks[-1].convs[-1]
    return _Span(first.in_resolution, blocks[-1].out_resolution, first.in_channels, last.out_channels)


def _of_head(plan: Plan) -> _Span:
    end = _of_blocks(plan.blocks)
    return _Span(end.out_resolution, 1, end.out_channels, plan.head.hidden_size)


def _row(part: str, kind: str, blocks: str, span: _Span, cost: Cost) -> tuple[str, ...]:
    return (
        part,
        kind,
        blocks,
        f"{span.in_resolution:>3} -> {span.out_resolution:>3}",
        f"{span.in_channels:>4} -> {span.out_channels:>4}",
        f"{cost.params:,}",
        si(cost.macs),
        si(cost.activations),
    )


def conv_type(name: str, row: ConvPlan) -> str:
    """`conv 3x3 /2`: the kernel and the stride."""
    return f"{name} {row.kernel_size}x{row.kernel_size}" + (f" /{row.stride}" if row.stride > 1 else "")


def group_type(group: GroupPlan) -> str:
    """`mbconv x6, 3x3 /2`: how far the blocks widen, their kernels but for 1x1, and the stride."""
    block = group.blocks[0]
    ratio = max(conv.out_channels for conv in block.convs[:-1]) / block.convs[0].in_channels if block.convs[1:] else 0
    kernels = [f"{conv.kernel_size}x{conv.kernel_size}" for conv in block.convs if conv.kernel_size > 1] or ["1x1"]
    stride = math.ceil(block.convs[0].in_resolution / block.out_resolution)
    widening = f" x{ratio:.3g}," if ratio and group.type != "depthwise_separable" else ""
    return f"{group.type}{widening} {' '.join(kernels)}" + (f" /{stride}" if stride > 1 else "")


def head_type(head: HeadPlan) -> str:
    """`conv 1x1, pool, linear`: the parts in order."""
    parts = ["pool"] if head.conv is None else ["conv 1x1", "pool"]
    return ", ".join((parts[::-1] if head.pool_first else parts) + (["linear"] if head.classifier else []))


def _part_data(blocks: int | None, span: _Span, cost: Cost) -> dict[str, object]:
    return {**({} if blocks is None else {"blocks": blocks}), **span._asdict(), **_cost_data(cost)}


def _cost_data(cost: Cost) -> dict[str, object]:
    return {"params": cost.params, "buffers": cost.buffers, "macs": cost.macs, "activations": cost.activations}
