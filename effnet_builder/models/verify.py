"""A module held against its plan: what torch counts and sees, beside what the plan says."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..arch.analysis import analyze
from ..arch.plan import ConvPlan, Plan, PoolPlan


def differences(model: nn.Module, plan: Plan) -> list[str]:
    """Where a module on the `meta` device differs from its plan, one sentence each; empty if they agree.

    Compared are every row's weight shape and output shape (N, C, R, R), and the params, buffers and MACs of the whole,
    the last as half of the FLOPs that torch counts in one forward pass.
    """
    expected: dict[str, object] = {}
    found: dict[str, object] = {}
    for row in plan.rows:
        if not isinstance(row, PoolPlan):
            path = f"{row.path}.conv.weight" if isinstance(row, ConvPlan) else f"{row.path}.weight"
            found[f"{row.path} weight"] = tuple(model.get_parameter(path).shape)
            expected[f"{row.path} weight"] = row.weight_shape
        expected[f"{row.path} output"] = (1, *row.output_shape)
    total = analyze(plan).total
    expected |= {"params": total.params, "buffers": total.buffers, "MACs": total.macs}
    found |= {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "buffers": sum(buffer.numel() for buffer in model.buffers()),
    }
    found |= _observe_forward(model, plan)
    return [f"{key}: plan {said}, module {found.get(key)}" for key, said in expected.items() if said != found.get(key)]


def _observe_forward(model: nn.Module, plan: Plan) -> dict[str, object]:
    """The output shape of every row, and the MACs, of one image in evaluation mode."""
    shapes: dict[str, object] = {}
    hooks = [
        model.get_submodule(row.path).register_forward_hook(
            lambda _module, _inputs, output, path=row.path: shapes.__setitem__(f"{path} output", tuple(output.shape))
        )
        for row in plan.rows
    ]
    training = model.training
    counter = FlopCounterMode(display=False)
    image: Tensor = torch.empty(1, plan.in_channels, plan.resolution, plan.resolution, device="meta")
    try:
        with torch.no_grad(), counter:
            model.eval()(image)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    flops = counter.get_total_flops()
    return shapes | {"MACs": flops // 2 if flops % 2 == 0 else math.nan}
