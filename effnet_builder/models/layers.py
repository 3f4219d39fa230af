"""Convolution with norm and activation, squeeze-excite, drop-path: the parts that blocks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arch.plan import ConvPlan, NormPlan, PoolPlan, SqueezeExcitePlan
from .depthwise import DepthwiseConv2d, is_observed
from .pointwise import PointwiseConv2d

# Not in place: where the gradient needs its input, an in-place activation first copies it.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}


class Conv2dSame(DepthwiseConv2d):
    """Convolution with TensorFlow's SAME padding: ceil(size / stride) outputs, an odd pad goes to the right and bottom.

    The padding follows the image at hand, so a network works at any resolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, ceil(H / s), ceil(W / s))."""
        height, width = (
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(x.shape[-2:], self.stride, self.kernel_size, strict=True)
        )
        if height or width:  # with nothing to pad, it would copy
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNormAct(nn.Sequential):
    """Convolution, norm, activation; the last two where the plan has them."""

    def __init__(self, plan: ConvPlan) -> None:
        super().__init__()
        symmetric = DepthwiseConv2d if plan.groups > 1 else nn.Conv2d
        kind, padding = (Conv2dSame, 0) if plan.padding == "same" else (symmetric, plan.padding)
        if plan.kernel_size == plan.stride == plan.groups == 1:  # nothing to pad
            kind, padding = PointwiseConv2d, 0
        self.conv = kind(
            plan.in_channels,
            plan.out_channels,
            plan.kernel_size,
            plan.stride,
            padding,
            dilation=plan.dilation,
            groups=plan.groups,
            bias=plan.bias,
        )
        if plan.norm is not None:
            self.norm = _norm(plan.norm, plan.out_channels)
        if plan.activation is not None:
            self.activation = _ACTIVATIONS[plan.activation]()


def _norm(plan: NormPlan, channels: int) -> nn.Module:
    if plan.type == "batch":
        return nn.BatchNorm2d(channels, plan.eps, plan.momentum)
    if plan.type == "group":
        return nn.GroupNorm(plan.groups, channels, plan.eps)
    return LayerNorm2d(channels, plan.eps)


class BlurPool2d(nn.Module):
    """Blur with the binomial 3x3 filter and stride 2, padded by zeros (Zhang 2019)."""

    filter: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filter", torch.outer(row, row).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, ceil(H / 2), ceil(W / 2))."""
        return F.conv2d(x, self.filter, stride=2, padding=1, groups=x.shape[1])


def pooling(plan: PoolPlan) -> nn.Module:
    """The anti-aliased striding of a plan."""
    return BlurPool2d(plan.channels) if plan.type == "blur" else nn.AvgPool2d(2)


class SqueezeExcite(nn.Module):
    """`x * expand(reduce(mean(x)))` (Hu et al. 2018)."""

    def __init__(self, plan: SqueezeExcitePlan) -> None:
        super().__init__()
        self.reduce = ConvNormAct(plan.reduce)
        self.expand = ConvNormAct(plan.expand)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        scale: Tensor = self.expand(self.reduce(_mean(x)))
        return x * scale


def _mean(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 1, 1)."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or is_observed():
        return x.mean((2, 3), keepdim=True)
    # The same bits, gradients too; but the gradient of a mean is first spread over the map and divided there.
    return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, zero for a share `rate` of the images, else / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(keep).div_(keep)
        return x * mask

    def extra_repr(self) -> str:
        """The rate, for `print(model)`."""
        return f"rate={self.rate:.3g}"
