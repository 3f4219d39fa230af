"""The rows of a stage table: one type for each kind of block, with the fields that have a meaning for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from ..config import AtMost, StrictModel
from .settings import (
    ActivationName,
    Channels,
    KernelSize,
    Norm,
    PaddingMode,
    Ratio,
    ScaleWidth,
    SqueezeExcite,
    Stride,
)

_TYPE = "the kind of block"


class _Row(StrictModel):
    """`repeats` blocks of one kind, of which the first one strides if it is the first of its stage."""

    repeats: Annotated[int, Field(ge=1), AtMost("blocks")] = Field(1, description="blocks before scaling")
    stride: Stride = Field(1, description="of the first block; only the first row of a stage may have 2")
    out_channels: Channels = Field(description="before scaling")
    activation: ActivationName | None = Field(None, description="instead of the network's")
    norm: Norm | None = Field(None, description="what differs from the network's")
    padding: PaddingMode | None = Field(None, description="instead of the network's")
    scale_width: ScaleWidth = Field(True, description="whether the width multiplier applies; 'up': only if above 1")
    scale_depth: bool = Field(True, description="whether the depth multiplier applies")


class _Squeezing(_Row):
    """A row whose blocks may have squeeze-excite."""

    se_ratio: float = Field(0.0, ge=0, le=1, description="squeezed width / base width; 0 for no squeeze-excite")
    squeeze_excite: SqueezeExcite | None = Field(None, description="what differs from the network's")
    skip: bool = Field(True, description="add the input where the stride is 1 and the channels stay the same")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Settings of parts that this row does not have."""
        if self.squeeze_excite is not None and self.se_ratio == 0:
            yield "squeeze_excite", "has no effect without se_ratio; leave it out, or give se_ratio"


class _Expanding(_Squeezing):
    """A row whose blocks expand their input."""

    expand_ratio: Ratio | None = Field(None, description="expanded width / in_channels; or give expand_channels")
    expand_channels: Channels | None = Field(
        None, description="expanded width before scaling, as tables with an 'exp size' have it; or give expand_ratio"
    )
    expand_base: Literal["input", "output"] = Field("input", description="the width that expand_ratio multiplies")
    always_expand: bool = Field(False, description="build the expansion also where it does not widen")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Settings of parts that this row does not have."""
        yield from super().conflicts()
        if self.expand_ratio is None and self.expand_channels is None:
            yield "expand_ratio", "missing; expected a number from 1 to 100, or expand_channels"
        if self.expand_ratio is not None and self.expand_channels is not None:
            yield "expand_channels", "has no meaning beside expand_ratio; give one of the two"
        if self.expand_channels is not None and self.expand_base == "output":
            yield "expand_base", "has no effect beside expand_channels; leave it out"
        if self.always_expand and self.expand_ratio not in (None, 1):
            yield "always_expand", f"has no effect beside expand_ratio {self.expand_ratio:g}; leave it out"

    @property
    def expands(self) -> bool:
        """Whether the blocks may have an expansion at all."""
        return self.expand_ratio != 1 or self.always_expand or self.expand_base == "output"


class MBConv(_Expanding):
    """Inverted residual blocks: expansion, depthwise convolution, squeeze-excite, linear projection.

    A skip where the stride is 1 and in_channels equal out_channels (Sandler et al. 2018, Tan et al. 2019).
    """

    type: Literal["mbconv"] = Field(description=_TYPE)
    kernel_size: KernelSize = Field(3, description="of the depthwise convolution")
    expand_kernel_size: KernelSize = Field(1, description="of the expansion; above 1 it is a dense convolution")
    group_size: Channels = Field(1, description="channels of one group of the depthwise convolution")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Settings of parts that this row does not have."""
        yield from super().conflicts()
        if self.expand_kernel_size != 1 and not self.expands:
            yield "expand_kernel_size", "has no effect: with expand_ratio 1 there is no expansion; leave it out"


class DepthwiseSeparable(_Squeezing):
    """Depthwise convolution, squeeze-excite, pointwise convolution (Howard et al. 2017).

    As an MBConv without expansion the projection is linear; in MobileNetV1 and LCNet it has an activation, and no skip.
    """

    type: Literal["depthwise_separable"] = Field(description=_TYPE)
    kernel_size: KernelSize = Field(3, description="of the depthwise convolution")
    group_size: Channels = Field(1, description="channels of one group of the depthwise convolution")
    linear: bool = Field(True, description="no activation after the pointwise convolution")


class FusedMBConv(_Expanding):
    """Expansion by a dense convolution, squeeze-excite, linear projection (Tan & Le 2021; EfficientNet-EdgeTPU).

    With expand_ratio 1 one convolution with norm and activation is all, unless always_expand.
    """

    type: Literal["fused_mbconv"] = Field(description=_TYPE)
    kernel_size: KernelSize = Field(3, description="of the expansion")
    group_size: Channels | None = Field(None, description="expanded channels of one group; else it is dense")


class Conv(_Row):
    """Convolution, norm, activation; a skip only on request."""

    type: Literal["conv"] = Field(description=_TYPE)
    kernel_size: KernelSize = Field(3, description="of the convolution")
    group_size: Channels | None = Field(None, description="output channels of one group; else it is dense")
    skip: bool = Field(False, description="add the input where the stride is 1 and the channels stay the same")


class UniversalInvertedBottleneck(_Squeezing):
    """Optional depthwise convolution, expansion, optional depthwise convolution, linear projection (Qin et al. 2024).

    Both: ExtraDW; only the second: MBConv; only the first: ConvNeXt-like; none: a feed-forward network.
    """

    type: Literal["universal_inverted_bottleneck"] = Field(description=_TYPE)
    start_kernel_size: KernelSize | None = Field(None, description="of the depthwise convolution before the expansion")
    kernel_size: KernelSize | None = Field(None, description="of the depthwise convolution after the expansion")
    expand_ratio: Ratio = Field(description="expanded width / in_channels")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Settings of parts that this row does not have."""
        yield from super().conflicts()
        if self.stride == 2 and self.start_kernel_size is None and self.kernel_size is None:
            yield "stride", "nothing can stride: give start_kernel_size or kernel_size, or stride 1"


AnyRow: TypeAlias = MBConv | DepthwiseSeparable | FusedMBConv | Conv | UniversalInvertedBottleneck
Row = Annotated[AnyRow, Field(discriminator="type")]


def _form(value: Any) -> str:
    return "rows" if isinstance(value, list | tuple) else "row"


Rows = Annotated[tuple[Row, ...], Field(strict=False, min_length=1), AtMost("blocks")]
Stage = Annotated[Annotated[Row, Tag("row")] | Annotated[Rows, Tag("rows")], Discriminator(_form)]
"""A row of the table, or a list of rows that make one stage, of which only the first may stride."""
