"""The layers of each kind of block, in the order of the forward pass: what a row of the stage table stands for."""

from __future__ import annotations

import math
from typing import Protocol

from .plan import BlockLayer, ConvPlan, NormPlan, PoolPlan, SqueezeExcitePlan
from .rows import AnyRow, Conv, DepthwiseSeparable, FusedMBConv, MBConv, UniversalInvertedBottleneck
from .settings import AntiAlias, Norm, PaddingMode, SqueezeExcite


class Decisions(Protocol):
    """What `resolve` decides for a row, and refuses in the place of the field that says it."""

    def width(self, value: float, field: str) -> int:
        """A width made whole by the rule for this field."""

    def groups(self, in_channels: int, out_channels: int, size: int | None) -> int:
        """Groups of `size` output channels; one where there is no size."""


class Chain:
    """Layers one behind the other: each takes the channels and the resolution that the one before it gives."""

    def __init__(
        self,
        path: str,
        channels: int,
        resolution: int,
        *,
        norm: Norm,
        activation: str,
        padding: PaddingMode,
        anti_alias: AntiAlias = "none",
        dilation: int = 1,
    ) -> None:
        self.path = path
        self.in_channels = self.channels = channels
        self.resolution = resolution
        self.norm, self.activation, self.padding = norm, activation, padding
        self.anti_alias, self.dilation = anti_alias, dilation
        self.layers: list[BlockLayer] = []

    def conv(
        self, name: str, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        """Convolution, norm and, unless `linear`, activation; anti-aliasing strides in a layer of its own."""
        pooled = stride > 1 and self.anti_alias != "none"
        conv = conv_plan(
            f"{self.path}.{name}", self.channels, out_channels, kernel_size, self.resolution,
            stride=1 if pooled else stride, padding=self.padding, dilation=self.dilation if kernel_size > 1 else 1,
            groups=groups, norm=self.norm, activation=None if linear else self.activation,
        )  # fmt: skip
        self.layers.append(conv)
        self.channels, self.resolution = out_channels, conv.out_resolution
        if pooled:
            assert self.anti_alias != "none"
            # torch's AvgPool2d leaves an odd last row out.
            out = self.resolution // 2 if self.anti_alias == "avg" else math.ceil(self.resolution / 2)
            self.layers.append(PoolPlan(f"{conv.path}_pool", self.anti_alias, out_channels, self.resolution, out))
            self.resolution = out

    def squeeze_excite(self, ratio: float, rule: SqueezeExcite, decide: Decisions) -> None:
        """Squeeze-excite on the present width; nothing where the ratio is 0."""
        if not ratio:
            return
        base = self.in_channels if rule.base == "input" else self.channels
        squeezed = decide.width(base * ratio, "se_ratio")
        path = f"{self.path}.squeeze_excite"
        activation = self.activation if rule.activation == "block" else rule.activation
        reduce = conv_plan(f"{path}.reduce", self.channels, squeezed, 1, 1, activation=activation)
        expand = conv_plan(f"{path}.expand", squeezed, self.channels, 1, 1, activation=rule.gate)
        self.layers.append(SqueezeExcitePlan(path, reduce, expand))


def lay_out(
    row: AnyRow,
    chain: Chain,
    out_channels: int,
    stride: int,
    expanded: int | None,
    rule: SqueezeExcite,
    decide: Decisions,
) -> None:
    """Add the layers of one block of a row to the chain; `expanded` is its absolute expanded width, if it has one."""
    match row:
        case MBConv():
            width = _expanded(row, chain.channels, out_channels, expanded, decide)
            _mbconv(row, chain, out_channels, stride, width, rule, decide)
        case DepthwiseSeparable():
            groups = decide.groups(chain.channels, chain.channels, row.group_size)
            chain.conv("depthwise", chain.channels, row.kernel_size, stride, groups)
            chain.squeeze_excite(row.se_ratio, rule, decide)
            chain.conv("projection", out_channels, linear=row.linear)
        case FusedMBConv():
            width = _expanded(row, chain.channels, out_channels, expanded, decide)
            _fused_mbconv(row, chain, out_channels, stride, width, rule, decide)
        case Conv():
            groups = decide.groups(chain.channels, out_channels, row.group_size)
            chain.conv("conv", out_channels, row.kernel_size, stride, groups)
        case UniversalInvertedBottleneck():
            _universal_inverted_bottleneck(row, chain, out_channels, stride, rule, decide)
        case _:
            raise AssertionError(row)


def _mbconv(
    row: MBConv, chain: Chain, out_channels: int, stride: int, expanded: int, rule: SqueezeExcite, decide: Decisions
) -> None:
    if _has_expansion(row, chain.channels, expanded):
        chain.conv("expansion", expanded, row.expand_kernel_size)
    groups = decide.groups(expanded, expanded, row.group_size)
    chain.conv("depthwise", expanded, row.kernel_size, stride, groups)
    chain.squeeze_excite(row.se_ratio, rule, decide)
    chain.conv("projection", out_channels, linear=True)


def _fused_mbconv(
    row: FusedMBConv,
    chain: Chain,
    out_channels: int,
    stride: int,
    expanded: int,
    rule: SqueezeExcite,
    decide: Decisions,
) -> None:
    if not _has_expansion(row, chain.channels, expanded):
        groups = decide.groups(chain.channels, out_channels, row.group_size)
        chain.conv("conv", out_channels, row.kernel_size, stride, groups)
        chain.squeeze_excite(row.se_ratio, rule, decide)
        return
    groups = decide.groups(chain.channels, expanded, row.group_size)
    chain.conv("expansion", expanded, row.kernel_size, stride, groups)
    chain.squeeze_excite(row.se_ratio, rule, decide)
    chain.conv("projection", out_channels, linear=True)


def _universal_inverted_bottleneck(
    row: UniversalInvertedBottleneck,
    chain: Chain,
    out_channels: int,
    stride: int,
    rule: SqueezeExcite,
    decide: Decisions,
) -> None:
    expanded = decide.width(chain.channels * row.expand_ratio, "expand_ratio")
    if row.start_kernel_size:
        # The second depthwise convolution strides where there is one (table 11 of the paper: stride "middle").
        start_stride = 1 if row.kernel_size else stride
        chain.conv("start", chain.channels, row.start_kernel_size, start_stride, chain.channels, linear=True)
    chain.conv("expansion", expanded)
    if row.kernel_size:
        chain.conv("depthwise", expanded, row.kernel_size, stride, expanded)
    chain.squeeze_excite(row.se_ratio, rule, decide)
    chain.conv("projection", out_channels, linear=True)


def _expanded(
    row: MBConv | FusedMBConv, in_channels: int, out_channels: int, absolute: int | None, decide: Decisions
) -> int:
    if absolute is not None:
        return absolute
    assert row.expand_ratio is not None
    base = in_channels if row.expand_base == "input" else out_channels
    return base if row.expand_ratio == 1 else decide.width(base * row.expand_ratio, "expand_ratio")


def _has_expansion(row: MBConv | FusedMBConv, in_channels: int, expanded: int) -> bool:
    if row.always_expand:
        return True
    return expanded != in_channels if row.expand_ratio in (None, 1) else True


def conv_plan(
    path: str,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    resolution: int,
    *,
    stride: int = 1,
    padding: PaddingMode = "symmetric",
    dilation: int = 1,
    groups: int = 1,
    norm: Norm | None = None,
    bias: bool | None = None,
    activation: str | None = None,
) -> ConvPlan:
    """A row; a convolution has a bias iff no norm follows it, unless said. Odd kernels: ceil(R / stride) px out."""
    planned = _norm_plan(norm, out_channels) if norm else None
    return ConvPlan(
        path=path,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=kernel_size,
        stride=stride,
        padding="same" if padding == "same" and stride > 1 else dilation * (kernel_size - 1) // 2,
        dilation=dilation,
        groups=groups,
        bias=planned is None if bias is None else bias,
        norm=planned,
        activation=activation,
        in_resolution=resolution,
        out_resolution=math.ceil(resolution / stride),
    )


def _norm_plan(norm: Norm, channels: int) -> NormPlan | None:
    if norm.type == "none":
        return None
    groups = channels // norm.group_size if norm.group_size else 0
    return NormPlan(norm.type, norm.eps, norm.momentum if norm.type == "batch" else 0.0, groups)
