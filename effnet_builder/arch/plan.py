"""What a spec means: one frozen row for each convolution and linear layer, every number decided once.

The module is built from these rows, and the counts are read off them; nobody else rounds, pads or scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .spec import ArchSpec, Norm


@dataclass(frozen=True, slots=True)
class ConvPlan:
    """A convolution with its norm and activation, where it has them: (N, C_in, R_in, R_in) to (N, C_out, R_out, R_out).

    `path` names the module; `padding` is in px on each side, or TensorFlow's `same`; resolutions are in px.
    """

    path: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int | Literal["same"]
    groups: int
    bias: bool
    norm: Norm | None
    activation: str | None
    in_resolution: int
    out_resolution: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """`(C_out, C_in / groups, k, k)`."""
        return self.out_channels, self.in_channels // self.groups, self.kernel_size, self.kernel_size

    @property
    def output_shape(self) -> tuple[int, ...]:
        """`(C_out, R_out, R_out)`, of one image."""
        return self.out_channels, self.out_resolution, self.out_resolution


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """A linear layer: (N, in_features) to (N, out_features)."""

    path: str
    in_features: int
    out_features: int
    bias: bool

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """`(out_features, in_features)`."""
        return self.out_features, self.in_features

    @property
    def output_shape(self) -> tuple[int, ...]:
        """`(out_features,)`, of one image."""
        return (self.out_features,)


@dataclass(frozen=True, slots=True)
class SqueezeExcitePlan:
    """`x * expand(reduce(mean(x)))`: two 1x1 convolutions on (N, C, 1, 1); the activation of `expand` is the gate."""

    path: str
    reduce: ConvPlan
    expand: ConvPlan


@dataclass(frozen=True, slots=True)
class MBConvPlan:
    """An inverted residual block. `drop_path_rate` is 0 where there is no skip."""

    path: str
    expansion: ConvPlan | None
    depthwise: ConvPlan
    squeeze_excite: SqueezeExcitePlan | None
    projection: ConvPlan
    skip: bool
    drop_path_rate: float

    @property
    def rows(self) -> Iterator[ConvPlan]:
        """The convolutions in the order of the forward pass."""
        if self.expansion is not None:
            yield self.expansion
        yield self.depthwise
        if self.squeeze_excite is not None:
            yield self.squeeze_excite.reduce
            yield self.squeeze_excite.expand
        yield self.projection


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A row of the stage table after scaling."""

    path: str
    type: str
    blocks: tuple[MBConvPlan, ...]


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """Convolution, global average pooling, dropout, classifier."""

    path: str
    conv: ConvPlan
    dropout: float
    classifier: LinearPlan


@dataclass(frozen=True, slots=True)
class Plan:
    """A network with every number decided. `resolution` is the image size in px that the rows are counted at."""

    spec: ArchSpec
    depth: float
    width: float
    resolution: int
    stem: ConvPlan
    stages: tuple[StagePlan, ...]
    head: HeadPlan

    @property
    def name(self) -> str:
        """The name of the spec."""
        return self.spec.name

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.stem.in_channels

    @property
    def blocks(self) -> tuple[MBConvPlan, ...]:
        """All blocks in order."""
        return tuple(block for stage in self.stages for block in stage.blocks)

    @property
    def rows(self) -> Iterator[ConvPlan | LinearPlan]:
        """Every layer with weights, in the order of the forward pass."""
        yield self.stem
        for block in self.blocks:
            yield from block.rows
        yield self.head.conv
        yield self.head.classifier
