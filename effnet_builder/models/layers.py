"""Convolution with norm and activation, squeeze-excite, drop-path: the parts that blocks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arch.plan import ConvPlan, SqueezeExcitePlan

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


class Conv2dSame(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: ceil(size / stride) outputs, an odd pad goes to the right and bottom.

    The padding follows the image at hand, so a network works at any resolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, ceil(H / s), ceil(W / s))."""
        height, width = (
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(x.shape[-2:], self.stride, self.kernel_size, strict=True)
        )
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, activation; the last two where the plan has them."""

    def __init__(self, plan: ConvPlan) -> None:
        super().__init__()
        kind, padding = (Conv2dSame, 0) if plan.padding == "same" else (nn.Conv2d, plan.padding)
        self.conv = kind(
            plan.in_channels,
            plan.out_channels,
            plan.kernel_size,
            plan.stride,
            padding,
            groups=plan.groups,
            bias=plan.bias,
        )
        if plan.norm is not None:
            self.norm = nn.BatchNorm2d(plan.out_channels, plan.norm.eps, plan.norm.momentum)
        if plan.activation is not None:
            self.activation = _ACTIVATIONS[plan.activation]()


class SqueezeExcite(nn.Module):
    """`x * expand(reduce(mean(x)))` (Hu et al. 2018)."""

    def __init__(self, plan: SqueezeExcitePlan) -> None:
        super().__init__()
        self.reduce = ConvNormAct(plan.reduce)
        self.expand = ConvNormAct(plan.expand)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        scale: Tensor = self.expand(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * scale


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
