"""RMSprop as PyTorch and as TensorFlow compute it, in few launches, and without a synchronization for a bad step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .skipping import found_inf, one_if, zero_if


class RMSpropOptimizer(torch.optim.Optimizer):
    """RMSprop with an L2 penalty in the gradient, in the variant of either framework.

    TensorFlow's (`tf_eps`): `s = alpha * s + (1 - alpha) * g²`, from 1; `m = momentum * m + lr * g / sqrt(s + eps)`;
    `w = w - m`. PyTorch's: s from 0; `m = momentum * m + g / (sqrt(s) + eps)`; `w = w - lr * m`.
    """

    _step_supports_amp_scaling = True  # see skipping.supports_skipping

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        alpha: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        tf_eps: bool = True,
    ) -> None:
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, settings | {"tf_eps": tf_eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, unless `found_inf` is set and 1."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        bad = found_inf(self)
        if bad is not None and not bad.is_cuda:
            return loss
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            # Few launches on a GPU; on a CPU one after the other, so that each stays in the cache (a third less time).
            for parameters in _by_dtype(trained) if any(p.is_cuda for p in trained) else [[p] for p in trained]:
                self._update(group, parameters, bad)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor], bad: Tensor | None = None) -> None:
        gradients: Any = [parameter.grad for parameter in parameters]
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        alpha, momentum = group["alpha"], group["momentum"]
        if bad is not None:
            gradients = zero_if(bad, gradients)
            alpha, momentum = (one_if(bad, value, parameters[0]) for value in (alpha, momentum))
        states = [self._state(parameter, group) for parameter in parameters]
        squares = [state["square_avg"] for state in states]
        torch._foreach_mul_(squares, alpha)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
        roots = _roots(squares, group["eps"], group["tf_eps"])
        if group["momentum"] == 0:
            torch._foreach_addcdiv_(parameters, gradients, roots, value=-group["lr"])
            return
        moments = [state["momentum_buffer"] for state in states]
        torch._foreach_mul_(moments, momentum)
        torch._foreach_addcdiv_(moments, gradients, roots, value=group["lr"] if group["tf_eps"] else 1)
        if bad is not None:
            moments = list(torch._foreach_mul(moments, (1 - bad).to(parameters[0].dtype)))
        torch._foreach_add_(parameters, moments, alpha=-1 if group["tf_eps"] else -group["lr"])

    def _state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            start = torch.ones_like if group["tf_eps"] else torch.zeros_like
            state["square_avg"] = start(parameter, memory_format=torch.preserve_format)
            if group["momentum"]:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def _roots(squares: list[Tensor], eps: float, tf_eps: bool) -> tuple[Tensor, ...]:
    """Return `sqrt(s + eps)` as TensorFlow has it, or `sqrt(s) + eps`."""
    if tf_eps:
        roots = torch._foreach_add(squares, eps)
        torch._foreach_sqrt_(roots)
    else:
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, eps)
    return roots


def _by_dtype(parameters: list[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault(parameter.dtype, []).append(parameter)
    return list(groups.values())
