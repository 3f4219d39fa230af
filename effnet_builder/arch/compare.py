"""Networks side by side, what differs between them marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from .analysis import analyze
from .plan import Plan, StagePlan
from .summary import align, conv_type, group_type, head_type, si


@dataclass(frozen=True, slots=True)
class Line:
    """One fact of several networks; `values` are texts, empty where a network has no such part."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether not all say the same."""
        return len(set(self.values)) > 1


def compare(*plans: Plan) -> list[Line]:
    """What the networks are and cost, line by line: multipliers, parts, totals, published accuracy."""
    analyses = [analyze(plan) for plan in plans]
    lines = [
        _line("resolution", (f"{plan.resolution} px" for plan in plans)),
        _line("depth", (f"{plan.depth:.4g}" for plan in plans)),
        _line("width", (f"{plan.width:.4g}" for plan in plans)),
        _line("activation", (plan.spec.activation for plan in plans)),
        _line("norm", (_norm(plan) for plan in plans)),
        _line("padding", (plan.spec.padding for plan in plans)),
        _line("stem", (f"{conv_type('conv', plan.stem)}, {plan.stem.out_channels}" for plan in plans)),
    ]
    for i, stages in enumerate(zip_longest(*(plan.stages for plan in plans))):
        lines.append(_line(f"stages[{i}]", ("" if stage is None else _stage(stage) for stage in stages)))
    lines += [
        _line("head", (_head(plan) for plan in plans)),
        _line("blocks", (str(len(plan.blocks)) for plan in plans)),
        _line("params", (f"{analysis.total.params:,}" for analysis in analyses)),
        _line("MACs", (si(analysis.total.macs) for analysis in analyses)),
        _line("activations", (si(analysis.total.activations) for analysis in analyses)),
        _line("weights", (si(analysis.weight_bytes, "B") for analysis in analyses)),
        _line("training, per image", (si(analysis.training_bytes_per_image, "B") for analysis in analyses)),
        _line("published top-1", (_top1(plan) for plan in plans)),
    ]
    return lines


def render_comparison(plans: Sequence[Plan]) -> str:
    """The comparison as a table; a star stands before what differs."""
    rows = [("*" if line.differs else "", line.name, *line.values) for line in compare(*plans)]
    return "\n".join(align(("", "", *(plan.name for plan in plans)), rows, texts=range(2 + len(plans))))


def comparison_data(plans: Sequence[Plan]) -> dict[str, object]:
    """The comparison as plain data."""
    lines = [{"name": line.name, "values": list(line.values), "differs": line.differs} for line in compare(*plans)]
    return {"names": [plan.name for plan in plans], "lines": lines}


def _line(name: str, values: Iterable[str]) -> Line:
    return Line(name, tuple(values))


def _norm(plan: Plan) -> str:
    norm = plan.spec.norm
    return norm.type if norm.type == "none" else f"{norm.type}, eps {norm.eps:g}"


def _stage(stage: StagePlan) -> str:
    """`2 mbconv x6, 3x3 /2, 24` for each row."""
    rows = ((group, group.blocks[-1].convs[-1].out_channels) for group in stage.groups)
    return "; ".join(f"{len(group.blocks)} {group_type(group)}, {channels}" for group, channels in rows)


def _head(plan: Plan) -> str:
    head = plan.head
    return f"{head_type(head)}: {head.hidden_size}" + (f" -> {plan.num_classes:,}" if head.classifier else "")


def _top1(plan: Plan) -> str:
    published = plan.spec.published
    return "" if published is None or published.top1 is None else f"{published.top1:g} %"
