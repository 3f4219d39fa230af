"""What a person writes: stem, stage table, head, scaling and rounding rules of a network, as strict data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from ..config import AtMost, Name, Path, StrictModel, Text, limit, load
from .rows import AnyRow, Stage
from .settings import (
    ActivationName,
    AntiAlias,
    Channels,
    DropPath,
    Initialization,
    KernelSize,
    Norm,
    PaddingMode,
    Pixels,
    RoundingRules,
    ScaleWidth,
    Scaling,
    SqueezeExcite,
    Stride,
)

Pooling = Literal["avg", "max", "avgmax"]
OutputStride = Literal[8, 16, 32]


class Stem(StrictModel):
    """The first convolution."""

    out_channels: Channels = Field(description="before scaling")
    kernel_size: KernelSize = Field(3, description="of the convolution")
    stride: Stride = Field(2, description="of the convolution")
    activation: ActivationName | None = Field(None, description="instead of the network's")
    scale_width: ScaleWidth = Field(True, description="whether the width multiplier applies; 'up': only if above 1")


class Head(StrictModel):
    """Global pooling, dropout, classifier; a 1x1 convolution before the pooling, behind it, or nowhere.

    conv_pool: convolution, norm, activation, pooling (EfficientNet). pool_conv: pooling, convolution with bias,
    activation (MobileNetV3). pool_conv_norm: pooling, convolution, norm, activation (MobileNetV4). pool: pooling.
    """

    order: Literal["conv_pool", "pool_conv", "pool_conv_norm", "pool"] = Field(
        "conv_pool", description="of the parts before dropout and classifier"
    )
    out_channels: Channels | None = Field(None, description="of the convolution, before scaling")
    bias: bool | None = Field(None, description="of the convolution, pool_conv only; true if not given")
    pool: Pooling = Field("avg", description="global pooling: mean, maximum, or half of their sum")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the classifier")
    num_classes: Annotated[int, Field(ge=0), AtMost("channels")] = Field(
        1000, description="outputs of the classifier; 0: no classifier"
    )
    activation: ActivationName | None = Field(None, description="instead of the network's")
    scale_width: ScaleWidth = Field(True, description="whether the width multiplier applies; 'up': only if above 1")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Settings of a convolution that this order does not have."""
        if self.order == "pool":
            for name in ("out_channels", "bias", "activation"):
                if getattr(self, name) is not None:
                    yield name, "has no effect: a head of order 'pool' has no convolution; leave it out"
        elif self.out_channels is None:
            yield "out_channels", f"missing; expected a whole number from 1 to {limit('channels'):,}, or order: pool"
        elif self.order != "pool_conv" and self.bias is not None:
            yield "bias", f"has no effect: in a head of order {self.order!r} a norm follows; leave it out"


class Published(StrictModel):
    """What the source reports of this network."""

    top1: float | None = Field(None, ge=0, le=100, description="ImageNet top-1 accuracy in percent")
    resolution: Pixels | None = Field(None, description="image size in px of the accuracy, where it is not the spec's")
    params: int | None = Field(None, ge=0, le=10**15, description="trainable parameters")
    macs: int | None = Field(None, ge=0, le=10**18, description="multiply-adds for one image")
    source: Text | None = Field(None, description="where the figures stand")


Means = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(strict=False, min_length=1, max_length=1000)]
Stds = Annotated[tuple[Annotated[float, Field(gt=0, le=10)], ...], Field(strict=False, min_length=1, max_length=1000)]


class Normalization(StrictModel):
    """What the network expects of its images: `(pixel - mean) / std` for pixels in [0, 1]."""

    mean: Means = Field(description="of each channel; ImageNet's is [0.485, 0.456, 0.406]")
    std: Stds = Field(description="of each channel; ImageNet's is [0.229, 0.224, 0.225]")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """A mean and a std of unequal length."""
        if len(self.mean) != len(self.std):
            yield "std", f"expected {len(self.mean)} numbers, as mean has"


class ArchSpec(StrictModel):
    """A network and its scaling rule."""

    name: Name = Field(description="a name")
    description: Text | None = Field(None, description="what it is")
    source: Text | None = Field(None, description="paper, table, code")
    published: Published | None = Field(None, description="accuracy and counts that the source reports")
    resolution: Pixels = Field(description="image size in px, before scaling")
    in_channels: Channels = Field(3, description="channels of the image")
    normalization: Normalization | None = Field(None, description="of the images that the published weights expect")
    activation: ActivationName = Field("silu", description="of every part that says nothing else")
    norm: Norm = Field(Norm(), description="after every convolution but those of squeeze-excite")
    padding: PaddingMode = Field("symmetric", description="(k - 1) // 2 on each side, or TensorFlow's SAME")
    anti_alias: AntiAlias = Field(
        "none", description="blocks convolve with stride 1 and then blur (Zhang 2019) or average with stride 2"
    )
    squeeze_excite: SqueezeExcite = Field(SqueezeExcite(), description="of every row with se_ratio")
    drop_path: DropPath = Field(DropPath(), description="stochastic depth")
    init: Initialization = Field(Initialization(), description="how new weights are drawn")
    output_stride: OutputStride | None = Field(
        None, description="dilate instead of striding further, for segmentation (DeepLab)"
    )
    stem: Stem = Field(description="the first convolution")
    stages: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1), AtMost("stages")] = Field(
        description="the table: rows, or lists of rows"
    )
    head: Head = Field(description="from the last stage to the classes")
    scaling: Scaling = Field(Scaling(), description="multipliers of depth, width and resolution")
    rounding: RoundingRules = Field(RoundingRules(), description="how scaled numbers become whole")

    def table(self) -> Iterator[list[tuple[Path, AnyRow]]]:
        """The stages, each as its rows with their paths."""
        for i, stage in enumerate(self.stages):
            if isinstance(stage, tuple):
                yield [(("stages", i, j), row) for j, row in enumerate(stage)]
            else:
                yield [(("stages", i), stage)]


class ScalingWarning(UserWarning):
    """A scaling rule is legal but unusual; `resolve` says how."""


def load_spec(source: str | os.PathLike[str], overrides: Mapping[str, object] | None = None) -> ArchSpec:
    """An archspec by name (`efficientnet-b4`) or a YAML file by path, with values replaced by path.

    A .safetensors file that effnet_builder wrote stands for the spec in it. `overrides={"stages[2].stride": 1}`.
    Raises ConfigError with every mistake.
    """
    return load(ArchSpec, source, "archspecs", overrides)


def variant_overrides(**values: float | None) -> dict[str, object]:
    """The keywords of `resolve` as overrides; `phi` drops explicit multipliers, but for those given beside it."""
    paths = {"num_classes": "head.num_classes", "in_channels": "in_channels", "output_stride": "output_stride"}
    changes: dict[str, object] = {}
    if values.get("phi") is not None:
        changes = dict.fromkeys(("scaling.phi", "scaling.depth", "scaling.width", "scaling.resolution"))
    for name, value in values.items():
        if value is not None:
            whole = isinstance(value, float) and value.is_integer()
            changes[paths.get(name, f"scaling.{name}")] = int(value) if whole else value
    return changes
