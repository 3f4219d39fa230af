"""What rows and whole networks share: numbers, words, norms, rounding, scaling, squeeze-excite, drop-path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..config import AtMost, StrictModel, Text

# Names are torch's: `torch.nn.functional.<name>`.
ActivationName = Literal["relu", "relu6", "silu", "hardswish", "gelu"]
Gate = Literal["sigmoid", "hardsigmoid"]
PaddingMode = Literal["symmetric", "same"]
AntiAlias = Literal["none", "blur", "avg"]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("expected an odd number, so that the kernel has a centre")
    return value


def _one_or_two(value: object) -> object:
    if type(value) is not int or value not in (1, 2):
        raise ValueError("expected 1 or 2")
    return value


def _never_smaller(value: object) -> object:
    if value is not True and value is not False and value != "up":
        raise ValueError("expected true, false or 'up'")
    return value


Channels = Annotated[int, Field(ge=1), AtMost("channels")]
Pixels = Annotated[int, Field(ge=1), AtMost("resolution")]
KernelSize = Annotated[int, Field(ge=1, le=31, json_schema_extra={"not": {"multipleOf": 2}}), AfterValidator(_odd)]
# A Literal alone would take True and 2.0 for its members.
Stride = Annotated[Literal[1, 2], BeforeValidator(_one_or_two)]
ScaleWidth = Annotated[bool | Literal["up"], BeforeValidator(_never_smaller)]
Multiplier = Annotated[float, Field(gt=0), AtMost("multiplier")]
Ratio = Annotated[float, Field(ge=1, le=100)]


class Norm(StrictModel):
    """Normalization after a convolution: of a channel over the batch, of groups of channels, or of all channels.

    batch: `running = (1 - momentum) * running + momentum * batch` (torch's convention). group: Wu & He 2018.
    layer: over the channels of each pixel (ConvNeXt's). none: the convolution has a bias instead.
    """

    type: Literal["batch", "group", "layer", "none"] = Field("batch", description="what is normalized together")
    eps: float = Field(1e-5, gt=0, le=1, description="added to the variance")
    momentum: float = Field(0.1, gt=0, le=1, description="batch only: weight of the new batch in the statistics")
    group_size: Channels | None = Field(None, description="group only: channels of one group")

    def misfits(self) -> Iterator[tuple[str, str]]:
        """Fields without meaning for this type, with the reason. A row may leave the type to the network."""
        if self.type == "none" and "eps" in self.model_fields_set:
            yield "eps", "there is no norm; leave it out"
        if self.type != "batch" and "momentum" in self.model_fields_set:
            yield "momentum", f"with norm type {self.type!r} there are no running statistics; leave it out"
        if self.type != "group" and self.group_size is not None:
            yield "group_size", f"with norm type {self.type!r} there are no groups; leave it out, or write type: group"
        if self.type == "group" and self.group_size is None:
            yield "type", "a group norm needs group_size"


class Rounding(StrictModel):
    """How a scaled number becomes whole; a number whose multiplier is 1 stays as written. See scaling.round_to."""

    mode: Literal["nearest", "ceil", "floor", "none"] = Field(
        description="to which multiple of the divisor; none: it must be whole already"
    )
    divisor: int = Field(1, ge=1, le=1024, description="the result is a multiple of this")
    limit: float = Field(0.0, ge=0, le=1, description="nearest only: never below this fraction of the exact number")
    truncate: bool = Field(False, description="drop the fraction before rounding")
    source: Text | None = Field(None, description="where the rule comes from")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """A limit or a divisor that the mode does not look at."""
        given = self.model_fields_set
        if "limit" in given and self.limit and self.mode != "nearest":
            yield "limit", f"has no effect beside mode {self.mode!r}; leave it out"
        if "divisor" in given and self.divisor != 1 and self.mode == "none":
            yield "divisor", "has no effect beside mode 'none'; leave it out"


class WidthRounding(Rounding):
    """Rounding of channels; the defaults are `round_filters` of the authors' code."""

    mode: Literal["nearest", "ceil", "floor", "none"] = Field(
        "nearest", description="to which multiple of the divisor; none: it must be whole already"
    )
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
    resolution: Annotated[float, Field(ge=1), AtMost("resolution")] | None = Field(
        None, description="explicit image size in px, instead of resolution * gamma ** phi"
    )
    source: Text | None = Field(None, description="where the coefficients come from")


class SqueezeExcite(StrictModel):
    """Squeeze-and-excitation (Hu et al. 2018): `x * gate(expand(activation(reduce(mean(x)))))`, 1x1 convs with bias."""

    base: Literal["input", "expanded"] = Field("input", description="the width that se_ratio multiplies")
    rounding: Rounding = Field(Rounding(mode="floor"), description="of the squeezed width")
    activation: ActivationName | Literal["block"] = Field("block", description="after reduce; 'block' is the row's own")
    gate: Gate = Field("sigmoid", description="after expand")


class DropPath(StrictModel):
    """Stochastic depth (Huang et al. 2016) of the blocks that have a skip. See scaling.drop_path_rate."""

    rate: float = Field(0.0, ge=0, lt=1, description="probability of dropping a block, for one image")
    schedule: Literal["linear", "linear_inclusive", "constant"] = Field(
        "linear", description="of block i of n: rate * i / n, rate * i / (n - 1), or the whole rate"
    )


class Initialization(StrictModel):
    """How new weights are drawn. Biases start at 0 and norms at weight 1, bias 0, but for `torch`, which keeps torch's.

    conv: `fan_out` is N(0, sqrt(2 / (C_out k²))) (torchvision, pycls), `fan_out_per_group` divides that fan by the
    groups (the authors' code, timm). linear: `uniform` is U(±1 / sqrt(C_out)) (the authors' code, torchvision's
    EfficientNets, timm), `normal` N(0, 0.01) (torchvision's MobileNets), `fan_out` U(±sqrt(3 / C_out)) (its MNASNets).
    """

    conv: Literal["fan_out", "fan_out_per_group", "torch"] = Field("fan_out", description="of every convolution")
    linear: Literal["uniform", "normal", "fan_out", "torch"] = Field("uniform", description="of the classifier")
