"""A spec to its plan: scale, round, lay out the layers; every mistake that only shows after scaling is found here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from ..config import Path, at_most, limit
from .layout import Chain, conv_plan, lay_out
from .numbers import Numbers, RowNumbers, count
from .plan import BlockPlan, ConvPlan, FeaturePlan, GroupPlan, HeadPlan, LinearPlan, Plan, PoolPlan, StagePlan
from .rows import AnyRow
from .scaling import compound_growth, drop_path_rate
from .settings import Norm, Scaling, SqueezeExcite
from .spec import ArchSpec, ScalingWarning, variant_overrides


def resolve(
    spec: ArchSpec,
    *,
    phi: float | None = None,
    width: float | None = None,
    depth: float | None = None,
    resolution: float | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    output_stride: int | None = None,
) -> Plan:
    """Scale and round the spec, and lay out its layers.

    The keywords replace values of the spec; `phi` also drops explicit multipliers, so that the rule applies. Raises
    ConfigError with every mistake, each located where the spec says it; warns (ScalingWarning) where
    alpha * beta² * gamma² is far from 2, and where phi has no effect.
    """
    changes = variant_overrides(
        phi=phi, width=width, depth=depth, resolution=resolution, num_classes=num_classes, in_channels=in_channels,
        output_stride=output_stride,
    )  # fmt: skip
    spec = spec.vary(changes)
    plan = Resolver(spec).plan()
    for text in _unusual(spec.scaling):
        warnings.warn(f"{spec.name}: {text}", ScalingWarning, stacklevel=2)
    return plan


Setting = TypeVar("Setting", Norm, SqueezeExcite)


class Place(NamedTuple):
    """Where a block stands: what it gets, and what the network's shape asks of it."""

    in_channels: int
    resolution: int
    stride: int
    dilation: int


class Placed(NamedTuple):
    """A row of the table after scaling: its first block, and the `repeats - 1` equal ones behind it."""

    stage: int
    path: Path
    row: AnyRow
    out_channels: int
    repeats: int
    first: Place
    rest: Place
    reduction: int
    expanded: int | None


class Scaled(NamedTuple):
    """The numbers of a spec after scaling and rounding: what a network of its rule is known by."""

    resolution: int
    stem: int
    widths: dict[Path, int]
    expanded: dict[Path, int]
    repeats: dict[Path, int]
    head: int

    @property
    def key(self) -> tuple[int, ...]:
        """Equal for equal networks of one spec."""
        numbers = (self.widths, self.expanded, self.repeats)
        return self.resolution, self.stem, self.head, *(number for part in numbers for number in part.values())


class Resolver:
    """Lays out one spec; its numbers and the mistakes found so far are in `numbers`."""

    def __init__(self, spec: ArchSpec) -> None:
        self.spec = spec
        self.numbers = Numbers(spec)

    def plan(self) -> Plan:
        """The whole network. Raises ConfigError."""
        spec, numbers = self.spec, self.numbers
        self._check_norm(spec.norm, ("norm",))
        scaled = self.scale()
        stem = self.stem(scaled)
        stages, features = self._stages(scaled)
        head = self.head(scaled, features[-1].channels, features[-1].resolution)
        numbers.stop_on_problems()
        plan = Plan(spec, numbers.depth, numbers.width, scaled.resolution, stem, stages, head, features)
        self.check_weights(sum(math.prod(row.weight_shape) for row in plan.rows if not isinstance(row, PoolPlan)))
        numbers.stop_on_problems()
        return plan

    def scale(self) -> Scaled:
        """Scale and round. Raises ConfigError."""
        spec, numbers, rounding = self.spec, self.numbers, self.spec.rounding
        resolution = numbers.resolution()
        stem = numbers.scaled(spec.stem.out_channels, spec.stem.scale_width, rounding.stem, ("stem", "out_channels"))
        widths, expanded = {}, {}
        for path, row in (pair for rows in spec.table() for pair in rows):
            field = (*path, "out_channels")
            widths[path] = numbers.scaled(row.out_channels, row.scale_width, rounding.stages, field)
            if absolute := getattr(row, "expand_channels", None):
                field = (*path, "expand_channels")
                expanded[path] = numbers.scaled(absolute, row.scale_width, rounding.stages, field)
        head, path = spec.head, ("head", "out_channels")
        head_width = (
            numbers.scaled(head.out_channels, head.scale_width, rounding.head, path) if head.out_channels else 0
        )
        repeats = numbers.depths()
        numbers.stop_on_problems()
        return Scaled(resolution, stem, widths, expanded, repeats, head_width)

    def stem(self, scaled: Scaled) -> ConvPlan:
        """The first convolution."""
        spec = self.spec
        stem = conv_plan(
            "stem", spec.in_channels, scaled.stem, spec.stem.kernel_size, scaled.resolution, stride=spec.stem.stride,
            padding=spec.padding, norm=spec.norm, activation=spec.stem.activation or spec.activation,
        )  # fmt: skip
        self._check_groups(spec.norm, [stem], ("norm",))
        self._check_stride("stem", stem.stride, stem.in_resolution)
        return stem

    def rows(self, scaled: Scaled) -> Iterator[Placed]:
        """The rows of the table in the order of the forward pass, each with what it gets from the one before it."""
        spec = self.spec
        channels, resolution = scaled.stem, math.ceil(scaled.resolution / spec.stem.stride)
        reduction: int = spec.stem.stride
        dilation = 1
        for i, rows in enumerate(spec.table()):
            for path, row in rows:
                stride, later_dilation = self._stride_or_dilate(row.stride, reduction, dilation)
                first = Place(channels, resolution, stride, dilation)
                channels, dilation = scaled.widths[path], later_dilation
                # torch's AvgPool2d leaves an odd last row out.
                floors = stride > 1 and spec.anti_alias == "avg"
                resolution = resolution // stride if floors else math.ceil(resolution / stride)
                rest = Place(channels, resolution, 1, dilation)
                repeats, expanded = scaled.repeats[path], scaled.expanded.get(path)
                yield Placed(i, path, row, channels, repeats, first, rest, reduction, expanded)
                reduction *= stride

    def _stages(self, scaled: Scaled) -> tuple[tuple[StagePlan, ...], tuple[FeaturePlan, ...]]:
        """The stages, and the feature maps: what comes before a stride, and the end."""
        drop_path, blocks_in_all, index = self.spec.drop_path, sum(scaled.repeats.values()), 0
        stages: list[list[GroupPlan]] = []
        features: list[FeaturePlan] = []
        last = "stem"
        for placed in self.rows(scaled):
            if placed.stage == len(stages):
                stages.append([])
            elif placed.row.stride > 1:
                self.numbers.refuse("only the first row of a stage may stride", (*placed.path, "stride"), 2)
            if placed.row.stride > 1:
                features.append(FeaturePlan(last, placed.first.in_channels, placed.reduction, placed.first.resolution))
            last = f"stages.{placed.stage}"
            before = sum(len(group.blocks) for group in stages[-1])
            blocks: list[BlockPlan] = []
            for j in range(placed.repeats):
                rate = drop_path_rate(drop_path.rate, drop_path.schedule, index, blocks_in_all)
                blocks.append(self.block(placed, placed.rest if j else placed.first, f"{last}.{before + j}", rate))
                index += 1
            stages[-1].append(GroupPlan(_name(placed.path), placed.row.type, tuple(blocks)))
        reduction = placed.reduction * placed.first.stride
        features.append(FeaturePlan(last, placed.out_channels, reduction, placed.rest.resolution))
        return tuple(StagePlan(f"stages.{i}", tuple(groups)) for i, groups in enumerate(stages)), tuple(features)

    def _stride_or_dilate(self, stride: int, reduction: int, dilation: int) -> tuple[int, int]:
        """The stride of a row's first block, and the dilation of the blocks behind it (Chen et al. 2017; timm)."""
        limit = self.spec.output_stride
        if limit is not None and reduction * stride > limit:
            return 1, dilation * stride
        return stride, dilation

    def block(self, placed: Placed, place: Place, name: str, drop_path_rate: float) -> BlockPlan:
        """One block of a row; its mistakes are noted in `numbers`."""
        spec, path, row, out_channels = self.spec, placed.path, placed.row, placed.out_channels
        norm = row.norm if row.norm and "type" in row.norm.model_fields_set else merged(spec.norm, row.norm)
        if row.norm:
            self._check_norm(norm, (*path, "norm"))
        rule = merged(spec.squeeze_excite, getattr(row, "squeeze_excite", None))
        self._check_stride(_name(path), place.stride, place.resolution)
        chain = Chain(
            name, place.in_channels, place.resolution, norm=norm, activation=row.activation or spec.activation,
            padding=row.padding or spec.padding, anti_alias=spec.anti_alias, dilation=place.dilation,
        )  # fmt: skip
        decide = RowNumbers(self.numbers, path, rule.rounding)
        lay_out(row, chain, out_channels, place.stride, placed.expanded, rule, decide)
        skip = row.skip and place.stride == 1 and place.in_channels == out_channels
        block = BlockPlan(name, row.type, tuple(chain.layers), skip, drop_path_rate if skip else 0.0)
        self._check_groups(norm, block.convs, (*path, "norm") if row.norm else ("norm",))
        return block

    def head(self, scaled: Scaled, channels: int, resolution: int) -> HeadPlan:
        """What follows the stages, which give `channels` at `resolution` px."""
        spec, head = self.spec, self.spec.head
        conv, pooled, features, pool_first = None, channels, channels, head.order != "conv_pool"
        if head.order != "pool":
            norm = None if head.order == "pool_conv" else spec.norm
            conv = conv_plan(
                "head.conv", channels, scaled.head, 1, 1 if pool_first else resolution,
                norm=norm, bias=head.bias, activation=head.activation or spec.activation,
            )  # fmt: skip
            if norm:
                self._check_groups(norm, [conv], ("norm",))
            features = scaled.head
            pooled = channels if pool_first else features
        classifier = LinearPlan("head.classifier", features, head.num_classes, bias=True) if head.num_classes else None
        return HeadPlan("head", conv, head.pool, pool_first, pooled, head.dropout, features, classifier)

    def check_weights(self, weights: int) -> None:
        """Refuse what no machine holds."""
        if weights > limit("weights"):
            message = f"{count(weights)} weights; {at_most('weights')}"
            self.numbers.refuse(message, self.numbers.cause("width"), None, limit="large")

    def _check_stride(self, name: str, stride: int, resolution: int) -> None:
        if stride > 1 and resolution == 1 and not self.numbers.problems:
            explicit = self.spec.scaling.resolution is not None
            path: Path = ("scaling", "resolution") if explicit else ("resolution",)
            message = f"too small: {name} would stride over a map of 1 px; use stride 1 there or a larger resolution"
            self.numbers.refuse(message, path, self.numbers.value(path), limit="small")

    def _check_norm(self, norm: Norm, path: Path) -> None:
        for field, message in norm.misfits():
            value = getattr(norm, field)
            self.numbers.refuse(message, (*path, field), value)

    def _check_groups(self, norm: Norm, convs: list[ConvPlan] | tuple[ConvPlan, ...], path: Path) -> None:
        size = norm.group_size
        if norm.type == "group" and size and not self.numbers.problems:
            for conv in (conv for conv in convs if conv.out_channels % size):
                message = f"{conv.path} has {conv.out_channels:,} channels, which groups of {size:,} do not divide"
                self.numbers.refuse(message, (*path, "group_size"), size)
                return
            for conv in (conv for conv in convs if size == conv.out_resolution == 1):
                message = f"{conv.path} has 1 px, and a group of one value is always 0 after the norm"
                self.numbers.refuse(message, (*path, "group_size"), size)
                return


def _name(path: Path) -> str:
    """`("stages", 2, 0)` as `stages[2][0]`."""
    return str(path[0]) + "".join(f"[{index}]" for index in path[1:])


def merged(base: Setting, row: Setting | None) -> Setting:
    """The network's setting with what the row says of it."""
    return base if row is None else base.model_copy(update={name: getattr(row, name) for name in row.model_fields_set})


def _unusual(rule: Scaling) -> Iterator[str]:
    """What is legal in a scaling rule, but hardly meant."""
    powers = ((rule.depth, rule.alpha), (rule.width, rule.beta), (rule.resolution, rule.gamma))
    if rule.phi and all(explicit is not None or base is None for explicit, base in powers):
        yield f"phi = {rule.phi:g} has no effect: depth, width and resolution are given explicitly, or have no power"
    growth = compound_growth(rule.alpha, rule.beta, rule.gamma)
    if (rule.alpha, rule.beta, rule.gamma) != (None, None, None) and not 1.8 <= growth <= 2.2:
        yield (
            f"alpha * beta^2 * gamma^2 = {growth:.4g}, not about 2: the MACs grow by {growth:.4g} for each step of phi "
            "(Tan & Le 2019, equation 3)"
        )
