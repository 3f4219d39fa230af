"""A spec to its plan: scale, round, lay out the layers; every mistake that only shows after scaling is found here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from ..config import Path
from .layout import Chain, conv_plan, lay_out
from .numbers import Numbers, RowNumbers, count
from .plan import BlockPlan, ConvPlan, FeaturePlan, GroupPlan, HeadPlan, LinearPlan, Plan, PoolPlan, StagePlan
from .rows import AnyRow
from .scaling import compound_growth, drop_path_rate
from .settings import Norm, Scaling, SqueezeExcite
from .spec import ArchSpec, ScalingWarning, variant_overrides

MAX_WEIGHTS = 10**12


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
    plan = _Resolver(spec).plan()
    for text in _unusual(spec.scaling):
        warnings.warn(f"{spec.name}: {text}", ScalingWarning, stacklevel=2)
    return plan


Setting = TypeVar("Setting", Norm, SqueezeExcite)


class _Place(NamedTuple):
    """Where a block stands: its path, what it gets, and what the network's shape asks of it."""

    path: str
    in_channels: int
    resolution: int
    stride: int
    dilation: int
    drop_path_rate: float


class _Resolver:
    """Lays out one spec; its numbers and the mistakes found so far are in `numbers`."""

    def __init__(self, spec: ArchSpec) -> None:
        self.spec = spec
        self.numbers = Numbers(spec)

    def plan(self) -> Plan:
        spec, numbers = self.spec, self.numbers
        resolution = numbers.resolution()
        self._check_norm(spec.norm, ("norm",))
        stem_channels = numbers.scaled(
            spec.stem.out_channels, spec.stem.scale_width, spec.rounding.stem, ("stem", "out_channels")
        )
        widths = {
            path: numbers.scaled(row.out_channels, row.scale_width, spec.rounding.stages, (*path, "out_channels"))
            for rows in spec.table()
            for path, row in rows
        }
        depths = numbers.depths()
        numbers.stop_on_problems()

        stem = conv_plan(
            "stem", spec.in_channels, stem_channels, spec.stem.kernel_size, resolution, stride=spec.stem.stride,
            padding=spec.padding, norm=spec.norm, activation=spec.stem.activation or spec.activation,
        )  # fmt: skip
        self._check_groups(spec.norm, [stem], ("norm",))
        self._check_stride("stem", stem.stride, stem.in_resolution)
        stages, features = self._stages(stem, widths, depths)
        head = self._head(stages[-1].blocks[-1])
        numbers.stop_on_problems()
        plan = Plan(spec, numbers.depth, numbers.width, resolution, stem, stages, head, features)
        weights = sum(math.prod(row.weight_shape) for row in plan.rows if not isinstance(row, PoolPlan))
        if weights > MAX_WEIGHTS:
            limit = f"{count(MAX_WEIGHTS)} ({4 * MAX_WEIGHTS // 10**12} TB)"
            numbers.refuse(f"{count(weights)} weights; at most {limit} are allowed", numbers.cause("width"), None)
        numbers.stop_on_problems()
        return plan

    def _stages(
        self, stem: ConvPlan, widths: dict[Path, int], depths: dict[Path, int]
    ) -> tuple[tuple[StagePlan, ...], tuple[FeaturePlan, ...]]:
        """The stages, and the feature maps: what comes before a stride, and the end."""
        drop_path, blocks_in_all, index = self.spec.drop_path, sum(depths.values()), 0
        channels, resolution = stem.out_channels, stem.out_resolution
        reduction, dilation = stem.stride, 1
        stages: list[StagePlan] = []
        features: list[FeaturePlan] = []
        for i, rows in enumerate(self.spec.table()):
            groups: list[GroupPlan] = []
            blocks_before = 0
            for path, row in rows:
                if row.stride > 1:
                    if groups:
                        self.numbers.refuse("only the first row of a stage may stride", (*path, "stride"), row.stride)
                    last = stages[-1].path if stages else "stem"
                    features.append(FeaturePlan(last, channels, reduction, resolution))
                stride, later_dilation = self._stride_or_dilate(row.stride, reduction, dilation)
                reduction *= stride
                blocks: list[BlockPlan] = []
                for j in range(depths[path]):
                    rate = drop_path_rate(drop_path.rate, drop_path.schedule, index, blocks_in_all)
                    place = _Place(f"stages.{i}.{blocks_before + j}", channels, resolution, stride, dilation, rate)
                    blocks.append(self._block(place, path, row, widths[path]))
                    channels, resolution = widths[path], blocks[-1].out_resolution
                    index, stride, dilation = index + 1, 1, later_dilation
                groups.append(GroupPlan(_name(path), row.type, tuple(blocks)))
                blocks_before += len(blocks)
            stages.append(StagePlan(f"stages.{i}", tuple(groups)))
        features.append(FeaturePlan(stages[-1].path, channels, reduction, resolution))
        return tuple(stages), tuple(features)

    def _stride_or_dilate(self, stride: int, reduction: int, dilation: int) -> tuple[int, int]:
        """The stride of a row's first block, and the dilation of the blocks behind it (Chen et al. 2017; timm)."""
        limit = self.spec.output_stride
        if limit is not None and reduction * stride > limit:
            return 1, dilation * stride
        return stride, dilation

    def _block(self, place: _Place, path: Path, row: AnyRow, out_channels: int) -> BlockPlan:
        spec = self.spec
        norm = row.norm if row.norm and "type" in row.norm.model_fields_set else _merged(spec.norm, row.norm)
        if row.norm:
            self._check_norm(norm, (*path, "norm"))
        rule = _merged(spec.squeeze_excite, getattr(row, "squeeze_excite", None))
        self._check_stride(_name(path), place.stride, place.resolution)
        chain = Chain(
            place.path, place.in_channels, place.resolution, norm=norm, activation=row.activation or spec.activation,
            padding=row.padding or spec.padding, anti_alias=spec.anti_alias, dilation=place.dilation,
        )  # fmt: skip
        decide = RowNumbers(self.numbers, path, rule.rounding, row.scale_width)
        lay_out(row, chain, out_channels, place.stride, rule, decide)
        skip = row.skip and place.stride == 1 and place.in_channels == out_channels
        block = BlockPlan(place.path, row.type, tuple(chain.layers), skip, place.drop_path_rate if skip else 0.0)
        self._check_groups(norm, block.convs, (*path, "norm") if row.norm else ("norm",))
        return block

    def _head(self, last: BlockPlan) -> HeadPlan:
        spec, head = self.spec, self.spec.head
        conv, features, pool_first = None, last.convs[-1].out_channels, head.order != "conv_pool"
        if head.order != "pool":
            assert head.out_channels is not None
            path = ("head", "out_channels")
            channels = self.numbers.scaled(head.out_channels, head.scale_width, spec.rounding.head, path)
            norm = None if head.order == "pool_conv" else spec.norm
            conv = conv_plan(
                "head.conv", features, channels, 1, 1 if pool_first else last.out_resolution,
                norm=norm, bias=head.bias, activation=head.activation or spec.activation,
            )  # fmt: skip
            if norm:
                self._check_groups(norm, [conv], ("norm",))
            features = channels
        pooled = last.convs[-1].out_channels if pool_first else features
        classifier = LinearPlan("head.classifier", features, head.num_classes, bias=True) if head.num_classes else None
        return HeadPlan("head", conv, head.pool, pool_first, pooled, head.dropout, features, classifier)

    def _check_stride(self, name: str, stride: int, resolution: int) -> None:
        if stride > 1 and resolution == 1 and not self.numbers.problems:
            explicit = self.spec.scaling.resolution is not None
            path: Path = ("scaling", "resolution") if explicit else ("resolution",)
            message = f"too small: {name} would stride over a map of 1 px; use stride 1 there or a larger resolution"
            self.numbers.refuse(message, path, self.numbers.value(path))

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


def _merged(base: Setting, row: Setting | None) -> Setting:
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
