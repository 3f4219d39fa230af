"""What a person writes: stem, stage table, head, scaling and rounding rules of a network, as strict data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..config import Name, StrictModel, Text, load

MAX_CHANNELS = 1_000_000
MAX_BLOCKS = 1_000
MAX_STAGES = 200
MAX_RESOLUTION = 65_536

# Names are torch's: `torch.nn.functional.<name>`.
Activation = Literal["relu", "relu6", "silu", "hardswish", "gelu"]
Gate = Literal["sigmoid", "hardsigmoid"]
PaddingMode = Literal["symmetric", "same"]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("expected an odd number, so that the kernel has a centre")
    return value


def _one_or_two(value: object) -> object:
    if type(value) is not int or value not in (1, 2):
        raise ValueError("expected 1 or 2")
    return value


Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
KernelSize = Annotated[int, Field(ge=1, le=31), AfterValidator(_odd)]
# A Literal alone would take True and 2.0 for its members.
Stride = Annotated[Literal[1, 2], BeforeValidator(_one_or_two)]
Multiplier = Annotated[float, Field(gt=0, le=100)]


class Norm(StrictModel):
    """Batch normalization, in torch's convention: `running = (1 - momentum) * running + momentum * batch`."""

    eps: float = Field(1e-5, gt=0, le=1, description="added to the variance")
    momentum: float = Field(0.1, gt=0, le=1, description="weight of the new batch in the running statistics")


class Rounding(StrictModel):
    """How a scaled number becomes whole; a number whose multiplier is 1 stays as written. See scaling.round_to."""

    mode: Literal["nearest", "ceil", "floor", "none"] = Field(description="to which multiple of the divisor")
    divisor: int = Field(1, ge=1, le=1024, description="the result is a multiple of this")
    limit: float = Field(0.0, ge=0, le=1, description="nearest only: never below this fraction of the exact number")
    truncate: bool = Field(False, description="drop the fraction before rounding")
    source: Text | None = Field(None, description="where the rule comes from")


class WidthRounding(Rounding):
    """Rounding of channels; the defaults are `round_filters` of the authors' code."""

    mode: Literal["nearest", "ceil", "floor", "none"] = Field("nearest", description="to which multiple of the divisor")
    divisor: int = Field(8, ge=1, le=1024, description="the result is a multiple of this")
    limit: float = Field(0.9, ge=0, le=1, description="nearest only: never below this fraction of the exact number")


class RoundingRules(StrictModel):
    """One rule for each kind of scaled number."""

    stem: WidthRounding = Field(WidthRounding(), description="channels of the stem")
    stages: WidthRounding = Field(WidthRounding(), description="channels of the stages")
    head: WidthRounding = Field(WidthRounding(), description="channels of the head")
    expansion: Rounding = Field(Rounding(mode="none"), description="in_channels * expand_ratio")
    repeats: Rounding = Field(Rounding(mode="ceil"), description="blocks of a stage")
    resolution: Rounding = Field(Rounding(mode="nearest"), description="image size in px")


class Scaling(StrictModel):
    """Multipliers of depth, width and resolution: explicit, else alpha, beta, gamma raised to phi."""

    phi: float = Field(0.0, ge=-100, le=100, description="compound coefficient")
    alpha: float | None = Field(None, ge=0.1, le=10, description="depth multiplier at phi = 1")
    beta: float | None = Field(None, ge=0.1, le=10, description="width multiplier at phi = 1")
    gamma: float | None = Field(None, ge=0.1, le=10, description="resolution multiplier at phi = 1")
    depth: Multiplier | None = Field(None, description="explicit depth multiplier, instead of alpha ** phi")
    width: Multiplier | None = Field(None, description="explicit width multiplier, instead of beta ** phi")
    resolution: Annotated[float, Field(ge=1, le=MAX_RESOLUTION)] | None = Field(
        None, description="explicit image size in px, instead of resolution * gamma ** phi"
    )
    source: Text | None = Field(None, description="where the coefficients come from")


class SqueezeExcite(StrictModel):
    """Squeeze-and-excitation (Hu et al. 2018): `x * gate(expand(activation(reduce(mean(x)))))`, 1x1 convs with bias."""

    base: Literal["input", "expanded"] = Field("input", description="the width that se_ratio multiplies")
    rounding: Rounding = Field(Rounding(mode="floor"), description="of the squeezed width")
    activation: Activation | Literal["block"] = Field("block", description="after reduce; 'block' is the row's own")
    gate: Gate = Field("sigmoid", description="after expand")


class DropPath(StrictModel):
    """Stochastic depth (Huang et al. 2016) of the blocks that have a skip. See scaling.drop_path_rate."""

    rate: float = Field(0.0, ge=0, lt=1, description="probability of dropping a block, for one image")
    schedule: Literal["linear", "linear_inclusive", "constant"] = Field("linear", description="over the blocks")


class Initialization(StrictModel):
    """How new weights are drawn. Biases start at 0 and norms at weight 1, bias 0, but for `torch`, which keeps torch's.

    conv: `fan_out` is N(0, sqrt(2 / (C_out k²))) (torchvision, pycls), `fan_out_per_group` divides that fan by the
    groups (the authors' code, timm). linear: `uniform` is U(±1 / sqrt(C_out)) (the authors' code, torchvision, timm).
    """

    conv: Literal["fan_out", "fan_out_per_group", "torch"] = Field("fan_out", description="of every convolution")
    linear: Literal["uniform", "torch"] = Field("uniform", description="of the classifier")


class Stem(StrictModel):
    """The first convolution."""

    out_channels: Channels = Field(description="before scaling")
    kernel_size: KernelSize = 3
    stride: Stride = 2
    activation: Activation | None = Field(None, description="instead of the network's")
    scale_width: bool = Field(True, description="whether the width multiplier applies")


class MBConv(StrictModel):
    """A row of the stage table: `repeats` inverted residual blocks, of which the first one strides.

    Expansion (unless expand_ratio is 1), depthwise convolution, squeeze-excite, projection; a skip where the stride
    is 1 and in_channels equal out_channels (Sandler et al. 2018, Tan et al. 2019).
    """

    type: Literal["mbconv"] = Field(description="the kind of block")
    repeats: int = Field(1, ge=1, le=MAX_BLOCKS, description="blocks before scaling")
    kernel_size: KernelSize = Field(3, description="of the depthwise convolution")
    stride: Stride = Field(1, description="of the first block")
    expand_ratio: float = Field(ge=1, le=100, description="expanded width / in_channels")
    expand_kernel_size: KernelSize = Field(1, description="of the expansion; above 1 it is a dense convolution")
    out_channels: Channels = Field(description="before scaling")
    se_ratio: float = Field(0.0, ge=0, le=1, description="squeezed width / base width; 0 for no squeeze-excite")
    activation: Activation | None = Field(None, description="instead of the network's")
    norm: Norm | None = Field(None, description="what differs from the network's")
    padding: PaddingMode | None = Field(None, description="instead of the network's")
    squeeze_excite: SqueezeExcite | None = Field(None, description="what differs from the network's")
    scale_width: bool = Field(True, description="whether the width multiplier applies")
    scale_depth: bool = Field(True, description="whether the depth multiplier applies")


class Head(StrictModel):
    """1x1 convolution, global average pooling, dropout, classifier."""

    out_channels: Channels = Field(description="before scaling")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the classifier")
    num_classes: int = Field(1000, ge=1, le=MAX_CHANNELS)
    activation: Activation | None = Field(None, description="instead of the network's")
    scale_width: bool = Field(True, description="whether the width multiplier applies")


class Published(StrictModel):
    """What the source reports of this network."""

    top1: float | None = Field(None, ge=0, le=100, description="ImageNet top-1 accuracy in percent")
    params: int | None = Field(None, ge=0, le=10**15)
    macs: int | None = Field(None, ge=0, le=10**18, description="multiply-adds for one image")
    source: Text | None = None


class ArchSpec(StrictModel):
    """A network and its scaling rule."""

    name: Name
    description: Text | None = None
    source: Text | None = Field(None, description="paper, table, code")
    published: Published | None = None
    resolution: int = Field(ge=1, le=MAX_RESOLUTION, description="image size in px, before scaling")
    in_channels: Channels = Field(3, description="channels of the image")
    activation: Activation = "silu"
    norm: Norm = Norm()
    padding: PaddingMode = Field("symmetric", description="(k - 1) // 2 on each side, or TensorFlow's SAME")
    squeeze_excite: SqueezeExcite = SqueezeExcite()
    drop_path: DropPath = DropPath()
    init: Initialization = Initialization()
    stem: Stem
    stages: tuple[MBConv, ...] = Field(strict=False, min_length=1, max_length=MAX_STAGES, description="the table")
    head: Head
    scaling: Scaling = Scaling()
    rounding: RoundingRules = RoundingRules()


class ScalingWarning(UserWarning):
    """A scaling rule is legal but unusual; `resolve` says how."""


def load_spec(source: str | os.PathLike[str], overrides: Mapping[str, object] | None = None) -> ArchSpec:
    """An archspec by name (`efficientnet-b4`) or a YAML file by path, with values replaced by path.

    `overrides={"stages[2].stride": 1}`. Raises ConfigError with every mistake.
    """
    return load(ArchSpec, source, "archspecs", overrides)


def variant_overrides(**values: float | None) -> dict[str, object]:
    """The keywords of `resolve` as overrides; `phi` drops explicit multipliers, but for those given beside it."""
    paths = {"num_classes": "head.num_classes", "in_channels": "in_channels"}
    changes: dict[str, object] = {}
    if values.get("phi") is not None:
        changes = dict.fromkeys(("scaling.phi", "scaling.depth", "scaling.width", "scaling.resolution"))
    for name, value in values.items():
        if value is not None:
            whole = isinstance(value, float) and value.is_integer()
            changes[paths.get(name, f"scaling.{name}")] = int(value) if whole else value
    return changes
