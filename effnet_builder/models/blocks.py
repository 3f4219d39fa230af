"""The block of the stage table: every kind of it is a chain of layers, with or without a skip around them."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from ..arch.plan import BlockLayer, BlockPlan, ConvPlan, PoolPlan
from .layers import ConvNormAct, DropPath, SqueezeExcite, pooling


class Block(nn.Sequential):
    """The layers of a plan by their names, `expansion`, `depthwise`, `projection`, ...; plus the input if it skips."""

    def __init__(self, plan: BlockPlan) -> None:
        layers = OrderedDict((layer.path.rpartition(".")[2], _layer(layer)) for layer in plan.layers)
        if plan.skip:
            layers["drop_path"] = DropPath(plan.drop_path_rate)
        super().__init__(layers)
        self.row_type, self.skip = plan.type, plan.skip

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, ceil(H / s), ceil(W / s))."""
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + y if self.skip else y

    def _get_name(self) -> str:
        return f"Block[{self.row_type}]"


def _layer(plan: BlockLayer) -> nn.Module:
    if isinstance(plan, ConvPlan):
        return ConvNormAct(plan)
    return pooling(plan) if isinstance(plan, PoolPlan) else SqueezeExcite(plan)
