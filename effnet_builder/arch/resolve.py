"""A spec to its plan: scale, round, lay out the layers; every mistake that only shows after scaling is found here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TypeVar

from ..config import Path, Problem, format_value
from .plan import ConvPlan, HeadPlan, LinearPlan, MBConvPlan, Plan, SqueezeExcitePlan, StagePlan
from .scaling import compound_growth, drop_path_rate, multiplier, round_to
from .spec import (
    MAX_BLOCKS,
    MAX_CHANNELS,
    MAX_RESOLUTION,
    ArchSpec,
    MBConv,
    Norm,
    PaddingMode,
    Rounding,
    Scaling,
    ScalingWarning,
    SqueezeExcite,
    variant_overrides,
)

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
) -> Plan:
    """Scale and round the spec, and lay out its layers.

    The keywords replace values of the spec; `phi` also drops explicit multipliers, so that the rule applies. Raises
    ConfigError with every mistake, each located where the spec says it; warns (ScalingWarning) where
    alpha * beta² * gamma² is far from 2, and where phi has no effect.
    """
    changes = variant_overrides(
        phi=phi, width=width, depth=depth, resolution=resolution, num_classes=num_classes, in_channels=in_channels
    )
    spec = spec.vary(changes)
    plan = _Resolver(spec).plan()
    for text in _unusual(spec.scaling):
        warnings.warn(f"{spec.name}: {text}", ScalingWarning, stacklevel=2)
    return plan


Setting = TypeVar("Setting", Norm, SqueezeExcite)


class _Resolver:
    """The state of one `resolve`: the spec, its multipliers, and the mistakes found so far."""

    def __init__(self, spec: ArchSpec) -> None:
        self.spec = spec
        rule = spec.scaling
        self.problems: list[Problem] = []
        self.depth = multiplier(rule.depth, rule.alpha, rule.phi)
        self.width = multiplier(rule.width, rule.beta, rule.phi)
        if rule.phi and (rule.alpha, rule.beta, rule.gamma) == (None, None, None):
            self._refuse("the spec has no alpha, beta or gamma to raise to phi", ("scaling", "phi"), rule.phi)

    def plan(self) -> Plan:
        spec = self.spec
        resolution = self._resolution()
        stem_channels = self._width(spec.stem.out_channels, spec.stem.scale_width, spec.rounding.stem, ("stem",))
        widths = [
            self._width(row.out_channels, row.scale_width, spec.rounding.stages, ("stages", i))
            for i, row in enumerate(spec.stages)
        ]
        depths = [self._depth(row, i) for i, row in enumerate(spec.stages)]
        head_channels = self._width(spec.head.out_channels, spec.head.scale_width, spec.rounding.head, ("head",))
        if sum(depths) > MAX_BLOCKS:
            message = f"{_count(sum(depths))} blocks; at most {MAX_BLOCKS:,} are allowed"
            self._refuse(message, self._cause("depth"), None)
        self._stop_on_problems()

        stem = _conv(
            "stem", spec.in_channels, stem_channels, spec.stem.kernel_size, resolution, stride=spec.stem.stride,
            padding=spec.padding, norm=spec.norm, activation=spec.stem.activation or spec.activation,
        )  # fmt: skip
        self._check_stride("stem", stem)
        stages = self._stages(stem, widths, depths)
        last = stages[-1].blocks[-1].projection
        conv = _conv(
            "head.conv", last.out_channels, head_channels, 1, last.out_resolution,
            norm=spec.norm, activation=spec.head.activation or spec.activation,
        )  # fmt: skip
        classifier = LinearPlan("head.classifier", head_channels, spec.head.num_classes, bias=True)
        head = HeadPlan("head", conv, spec.head.dropout, classifier)
        self._stop_on_problems()
        plan = Plan(spec, self.depth, self.width, resolution, stem, tuple(stages), head)
        weights = sum(math.prod(row.weight_shape) for row in plan.rows)
        if weights > MAX_WEIGHTS:
            limit = f"{_count(MAX_WEIGHTS)} ({4 * MAX_WEIGHTS // 10**12} TB)"
            self._refuse(f"{_count(weights)} weights; at most {limit} are allowed", self._cause("width"), None)
        self._stop_on_problems()
        return plan

    def _stages(self, stem: ConvPlan, widths: list[int], depths: list[int]) -> list[StagePlan]:
        spec, before, index = self.spec, stem, 0
        stages = []
        for i, row in enumerate(spec.stages):
            blocks: list[MBConvPlan] = []
            for j in range(depths[i]):
                rate = drop_path_rate(spec.drop_path.rate, spec.drop_path.schedule, index, sum(depths))
                block = self._mbconv(f"stages.{i}.{j}", i, before, widths[i], row.stride if j == 0 else 1, rate)
                self._check_stride(f"stages[{i}]", block.depthwise)
                blocks.append(block)
                before, index = block.projection, index + 1
            stages.append(StagePlan(f"stages.{i}", row.type, tuple(blocks)))
        return stages

    def _mbconv(self, path: str, i: int, before: ConvPlan, channels: int, stride: int, rate: float) -> MBConvPlan:
        spec, row = self.spec, self.spec.stages[i]
        in_channels, resolution = before.out_channels, before.out_resolution
        padding = row.padding or spec.padding
        norm = _merged(spec.norm, row.norm)
        activation = row.activation or spec.activation
        expanded, expansion = in_channels, None
        if row.expand_ratio != 1:
            exact = in_channels * row.expand_ratio
            expanded = self._round(exact, spec.rounding.expansion, ("stages", i, "expand_ratio"))
            expansion = _conv(
                f"{path}.expansion", in_channels, expanded, row.expand_kernel_size, resolution,
                padding=padding, norm=norm, activation=activation,
            )  # fmt: skip
        depthwise = _conv(
            f"{path}.depthwise", expanded, expanded, row.kernel_size, resolution, stride=stride,
            padding=padding, groups=expanded, norm=norm, activation=activation,
        )  # fmt: skip
        squeeze_excite = None
        if row.se_ratio:
            rule = _merged(spec.squeeze_excite, row.squeeze_excite)
            base = in_channels if rule.base == "input" else expanded
            squeezed = self._round(base * row.se_ratio, rule.rounding, ("stages", i, "se_ratio"))
            squeeze_excite = _squeeze_excite(f"{path}.squeeze_excite", expanded, squeezed, rule, activation)
        projection = _conv(f"{path}.projection", expanded, channels, 1, depthwise.out_resolution, norm=norm)
        skip = stride == 1 and in_channels == channels
        return MBConvPlan(path, expansion, depthwise, squeeze_excite, projection, skip, rate if skip else 0.0)

    def _resolution(self) -> int:
        spec, rule = self.spec, self.spec.scaling
        if rule.resolution is None:
            factor = multiplier(None, rule.gamma, rule.phi)
            if factor == 1:
                return spec.resolution
            exact, path = spec.resolution * factor, self._cause("resolution")
        else:
            exact, path = rule.resolution, ("scaling", "resolution")
        # Compared before rounding: rounding never gives less than one px.
        if not 1 <= exact <= MAX_RESOLUTION:
            self._refuse(f"an image of {exact:,.6g} px; expected 1 to {MAX_RESOLUTION:,}", path, self._value(path))
            return 1
        return self._round(exact, spec.rounding.resolution, path)

    def _width(self, channels: int, scaled: bool, rule: Rounding, path: Path) -> int:
        if not scaled or self.width == 1:
            return channels
        rounded = self._round(channels * self.width, rule, (*path, "out_channels"))
        if rounded > MAX_CHANNELS:
            message = f"{_count(rounded)} channels after scaling; at most {MAX_CHANNELS:,} are allowed"
            self._refuse(message, (*path, "out_channels"), channels)
        return rounded

    def _depth(self, row: MBConv, i: int) -> int:
        if not row.scale_depth or self.depth == 1:
            return row.repeats
        return self._round(row.repeats * self.depth, self.spec.rounding.repeats, ("stages", i, "repeats"))

    def _round(self, value: float, rule: Rounding, path: Path) -> int:
        try:
            return round_to(value, rule.mode, rule.divisor, rule.limit, rule.truncate)
        except ValueError as error:
            self._refuse(f"{error} after scaling, and its rounding mode is 'none'", path, self._value(path))
            return 1

    def _check_stride(self, name: str, conv: ConvPlan) -> None:
        if conv.stride > 1 and conv.in_resolution == 1 and not self.problems:
            explicit = self.spec.scaling.resolution is not None
            path: Path = ("scaling", "resolution") if explicit else ("resolution",)
            message = f"too small: {name} would stride over a map of 1 px; use stride 1 there or a larger resolution"
            self._refuse(message, path, self._value(path))

    def _cause(self, dimension: str) -> Path:
        """The path of what sets a multiplier."""
        explicit = getattr(self.spec.scaling, dimension) is not None
        return ("scaling", dimension) if explicit else ("scaling", "phi") if self.spec.scaling.phi else ("stages",)

    def _value(self, path: Path) -> object:
        value: object = self.spec
        for part in path:
            value = value[part] if isinstance(value, tuple) and isinstance(part, int) else getattr(value, str(part))
        return value

    def _refuse(self, message: str, path: Path, value: object) -> None:
        self.problems.append(Problem(message, path, None if value is None else format_value(value)))

    def _stop_on_problems(self) -> None:
        if self.problems:
            raise self.spec.error(self.problems)


def _conv(
    path: str,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    resolution: int,
    *,
    stride: int = 1,
    padding: PaddingMode = "symmetric",
    groups: int = 1,
    norm: Norm | None,
    activation: str | None = None,
) -> ConvPlan:
    """A row; a convolution has a bias iff no norm follows it. Odd kernels: both paddings give ceil(R / stride) px."""
    return ConvPlan(
        path=path,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=kernel_size,
        stride=stride,
        padding="same" if padding == "same" and stride > 1 else (kernel_size - 1) // 2,
        groups=groups,
        bias=norm is None,
        norm=norm,
        activation=activation,
        in_resolution=resolution,
        out_resolution=math.ceil(resolution / stride),
    )


def _squeeze_excite(
    path: str, channels: int, squeezed: int, rule: SqueezeExcite, block_activation: str
) -> SqueezeExcitePlan:
    activation = block_activation if rule.activation == "block" else rule.activation
    return SqueezeExcitePlan(
        path,
        reduce=_conv(f"{path}.reduce", channels, squeezed, 1, 1, norm=None, activation=activation),
        expand=_conv(f"{path}.expand", squeezed, channels, 1, 1, norm=None, activation=rule.gate),
    )


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


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"{number:.3g}"
