"""The blocks of the stage table."""

from __future__ import annotations

from torch import Tensor, nn

from ..arch.plan import MBConvPlan
from .layers import ConvNormAct, DropPath, SqueezeExcite


class MBConv(nn.Module):
    """Inverted residual block: expansion, depthwise, squeeze-excite, projection; plus its input if the plan skips."""

    def __init__(self, plan: MBConvPlan) -> None:
        super().__init__()
        self.expansion = ConvNormAct(plan.expansion) if plan.expansion else None
        self.depthwise = ConvNormAct(plan.depthwise)
        self.squeeze_excite = SqueezeExcite(plan.squeeze_excite) if plan.squeeze_excite else None
        self.projection = ConvNormAct(plan.projection)
        self.drop_path = DropPath(plan.drop_path_rate) if plan.skip else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, ceil(H / s), ceil(W / s))."""
        y: Tensor = x if self.expansion is None else self.expansion(x)
        y = self.depthwise(y)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y)
        y = self.projection(y)
        return y if self.drop_path is None else x + self.drop_path(y)
