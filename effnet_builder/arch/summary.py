"""A plan and its costs as a table for people or as JSON data: formatting only, every number comes from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .analysis import Analysis, Cost
from .plan import ConvPlan, MBConvPlan, Plan

_NOTES = (
    "MACs: multiply-adds of convolutions and linear layers, one image. Activations: elements of their outputs.",
    "Memory in float32: weights {weights}; training keeps about {training} for each image.",
)
_UNITS = ("", " k", " M", " G", " T", " P", " E")


def render_summary(plan: Plan, analysis: Analysis) -> str:
    """The stage table, its sum, and the totals to the last digit."""
    header = ("part", "type", "blocks", "px", "channels", "params", "MACs", "activations")
    stem, conv = plan.stem, plan.head.conv
    rows = [_row("stem", _conv_type("conv", stem), None, stem, stem, analysis.stem)]
    for i, (stage, cost) in enumerate(zip(plan.stages, analysis.stages, strict=True)):
        first, last = stage.blocks[0], stage.blocks[-1]
        kind = _block_type(stage.type, first)
        rows.append(_row(f"stages[{i}]", kind, len(stage.blocks), next(first.rows), last.projection, cost))
    rows.append(_row("head", _conv_type("conv", conv) + ", pool, linear", None, conv, _pooled(conv), analysis.head))
    total = analysis.total
    sums = (f"{total.params:,}", si(total.macs), si(total.activations))
    rows.append(("total", "", str(len(plan.blocks)), "", "", *sums))
    notes = [
        note.format(weights=si(analysis.weight_bytes, "B"), training=si(analysis.training_bytes_per_image, "B"))
        for note in _NOTES
    ]
    title = f"{plan.name}: depth {plan.depth:.4g}, width {plan.width:.4g}, {plan.resolution} px, "
    title += f"{plan.head.classifier.out_features:,} classes"
    return "\n".join([title, "", *align(header, rows, left=2, sums=1), "", *notes, totals_line(plan, analysis)])


def totals_line(plan: Plan, analysis: Analysis) -> str:
    """`name: params, MACs at px`, to the last digit."""
    return f"{plan.name}: {counts_line(plan, analysis)}"


def counts_line(plan: Plan, analysis: Analysis) -> str:
    """`params, MACs at px`, to the last digit."""
    return f"{analysis.total.params:,} params, {analysis.total.macs:,} MACs at {plan.resolution} px"


def summary_data(plan: Plan, analysis: Analysis) -> dict[str, object]:
    """The summary as plain data, ready for JSON. Resolutions in px, memory in bytes (float32)."""
    return {
        "name": plan.name,
        "resolution": plan.resolution,
        "in_channels": plan.in_channels,
        "num_classes": plan.head.classifier.out_features,
        "depth": plan.depth,
        "width": plan.width,
        **_cost_data(analysis.total),
        "weight_bytes": analysis.weight_bytes,
        "training_bytes_per_image": analysis.training_bytes_per_image,
        "stem": _part_data("stem", "conv", None, plan.stem, plan.stem, analysis.stem),
        "stages": [
            _part_data(
                f"stages[{i}]",
                stage.type,
                len(stage.blocks),
                next(stage.blocks[0].rows),
                stage.blocks[-1].projection,
                cost,
            )
            for i, (stage, cost) in enumerate(zip(plan.stages, analysis.stages, strict=True))
        ],
        "head": _part_data("head", "conv", None, plan.head.conv, _pooled(plan.head.conv), analysis.head),
    }


def align(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, sums: int = 0) -> list[str]:
    """A table as lines: the first `left` columns flush left, the others right, a rule above the last `sums` rows."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
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


def _row(part: str, kind: str, blocks: int | None, first: ConvPlan, last: ConvPlan, cost: Cost) -> tuple[str, ...]:
    return (
        part,
        kind,
        "" if blocks is None else str(blocks),
        f"{first.in_resolution:>3} -> {last.out_resolution:>3}",
        f"{first.in_channels:>4} -> {last.out_channels:>4}",
        f"{cost.params:,}",
        si(cost.macs),
        si(cost.activations),
    )


def _pooled(row: ConvPlan) -> ConvPlan:
    """The row as seen behind global average pooling."""
    return replace(row, out_resolution=1)


def _conv_type(name: str, row: ConvPlan) -> str:
    return f"{name} {row.kernel_size}x{row.kernel_size}" + (f" /{row.stride}" if row.stride > 1 else "")


def _block_type(name: str, block: MBConvPlan) -> str:
    ratio = block.depthwise.in_channels / next(block.rows).in_channels
    return _conv_type(f"{name} x{ratio:.3g},", block.depthwise)


def _part_data(
    name: str, kind: str, blocks: int | None, first: ConvPlan, last: ConvPlan, cost: Cost
) -> dict[str, object]:
    return {
        "name": name,
        "type": kind,
        **({} if blocks is None else {"blocks": blocks}),
        "in_resolution": first.in_resolution,
        "out_resolution": last.out_resolution,
        "in_channels": first.in_channels,
        "out_channels": last.out_channels,
        **_cost_data(cost),
    }


def _cost_data(cost: Cost) -> dict[str, object]:
    return {"params": cost.params, "buffers": cost.buffers, "macs": cost.macs, "activations": cost.activations}
