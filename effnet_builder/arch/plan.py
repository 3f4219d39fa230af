"""What a spec means: one frozen row for each convolution, pooling and linear layer, every number decided once.

The module is built from these rows, and the counts are read off them; nobody else rounds, pads or scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .spec import ArchSpec, Pooling


@dataclass(frozen=True, slots=True)
class NormPlan:
    """The norm behind a convolution. `groups` is 0 but for group norm, `momentum` 0 but for batch norm."""

    type: Literal["batch", "group", "layer"]
    eps: float
    momentum: float
    groups: int


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
    dilation: int
    groups: int
    bias: bool
    norm: NormPlan | None
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
class PoolPlan:
    """Anti-aliased striding: `blur` with the binomial 3x3 filter (Zhang 2019), or the mean of 2x2 px."""

    path: str
    type: Literal["blur", "avg"]
    channels: int
    in_resolution: int
    out_resolution: int

    @property
    def output_shape(self) -> tuple[int, ...]:
        """`(C, R_out, R_out)`, of one image."""
        return self.channels, self.out_resolution, self.out_resolution


@dataclass(frozen=True, slots=True)
class SqueezeExcitePlan:
    """`x * expand(reduce(mean(x)))`: two 1x1 convolutions on (N, C, 1, 1); the activation of `expand` is the gate."""

    path: str
    reduce: ConvPlan
    expand: ConvPlan


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


BlockLayer: TypeAlias = ConvPlan | PoolPlan | SqueezeExcitePlan
LayerPlan: TypeAlias = ConvPlan | PoolPlan | LinearPlan


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """Layers one behind the other, plus the block's input where `skip`. Every kind of block is such a chain.

    `type` is that of the row it comes from. `drop_path_rate` is 0 where there is no skip.
    """

    path: str
    type: str
    layers: tuple[BlockLayer, ...]
    skip: bool
    drop_path_rate: float

    @property
    def expansion(self) -> ConvPlan | None:
        """The convolution that widens."""
        return self._conv("expansion")

    @property
    def depthwise(self) -> ConvPlan | None:
        """The depthwise or grouped convolution; in a universal inverted bottleneck the one behind the expansion."""
        return self._conv("depthwise")

    @property
    def squeeze_excite(self) -> SqueezeExcitePlan | None:
        """The squeeze-excite."""
        return next((layer for layer in self.layers if isinstance(layer, SqueezeExcitePlan)), None)

    @property
    def projection(self) -> ConvPlan | None:
        """The convolution that narrows."""
        return self._conv("projection")

    def _conv(self, name: str) -> ConvPlan | None:
        return next((conv for conv in self.convs if conv.path == f"{self.path}.{name}"), None)

    @property
    def convs(self) -> tuple[ConvPlan, ...]:
        """The convolutions of the chain itself, without those of squeeze-excite."""
        return tuple(layer for layer in self.layers if isinstance(layer, ConvPlan))

    @property
    def out_resolution(self) -> int:
        """In px; squeeze-excite, which may end the chain, leaves it as it is."""
        return [layer for layer in self.layers if not isinstance(layer, SqueezeExcitePlan)][-1].out_resolution

    @property
    def rows(self) -> Iterator[ConvPlan | PoolPlan]:
        """The layers in the order of the forward pass, squeeze-excite taken apart."""
        for layer in self.layers:
            if isinstance(layer, SqueezeExcitePlan):
                yield layer.reduce
                yield layer.expand
            else:
                yield layer


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """The blocks of one row of the stage table after scaling; `name` is the row's path in the spec."""

    name: str
    type: str
    blocks: tuple[BlockPlan, ...]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage: the row groups of one resolution."""

    path: str
    groups: tuple[GroupPlan, ...]

    @property
    def blocks(self) -> tuple[BlockPlan, ...]:
        """All blocks in order."""
        return tuple(block for group in self.groups for block in group.blocks)


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """Global pooling with a convolution before or behind it, dropout, classifier; the last where there are classes.

    `pooled_size` is the number of channels that are pooled, `hidden_size` that of the features the classifier gets.
    """

    path: str
    conv: ConvPlan | None
    pool: Pooling
    pool_first: bool
    pooled_size: int
    dropout: float
    hidden_size: int
    classifier: LinearPlan | None


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """A feature map, the last of its resolution: (N, channels, H / reduction, W / reduction)."""

    path: str
    channels: int
    reduction: int
    resolution: int


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
    features: tuple[FeaturePlan, ...]

    @property
    def name(self) -> str:
        """The name of the spec."""
        return self.spec.name

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.stem.in_channels

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 without one."""
        return 0 if self.head.classifier is None else self.head.classifier.out_features

    @property
    def num_features(self) -> int:
        """Channels of the feature map that goes into the pooling."""
        return self.head.pooled_size

    @property
    def blocks(self) -> tuple[BlockPlan, ...]:
        """All blocks in order."""
        return tuple(block for stage in self.stages for block in stage.blocks)

    @property
    def rows(self) -> Iterator[LayerPlan]:
        """Every layer that computes, in the order of the forward pass."""
        yield self.stem
        for block in self.blocks:
            yield from block.rows
        if self.head.conv is not None:
            yield self.head.conv
        if self.head.classifier is not None:
            yield self.head.classifier
