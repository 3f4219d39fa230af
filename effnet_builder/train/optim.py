"""The optimizer of a recipe: torch's optimizers, TensorFlow's RMSprop, Muon; the norm of gradients and clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .groups import parameter_groups
from .muon import MuonWithAux
from .optim_settings import SGD, AdamW, AnyOptimizer, Muon, RMSprop


def build_optimizer(
    settings: AnyOptimizer, model: nn.Module, batch_size: int, *, fused: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of what is not frozen in a module, for batches of this many images; group 0 has the whole lr.

    As torch chooses by default: all tensors together (`foreach`) on CUDA, one by one on a CPU. `fused` asks for torch's
    fused kernels, where the optimizer has them; they round otherwise. Raises ConfigError as `parameter_groups` does.
    """
    optimizer = _optimizer(settings, parameter_groups(settings, model, batch_size), fused or None)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give each group this share of its own learning rate, `lr = initial_lr * factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def grad_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all gradients together, 0 without any, where they are. Does not wait for the device."""
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def clip_gradients(
    parameters: Iterable[Tensor],
    *,
    max_norm: float | None = None,
    max_value: float | None = None,
    norm: Tensor | None = None,
) -> Tensor:
    """The `grad_norm` before, which may be given; afterwards the gradients are within the bound.

    Does not wait for the device.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = grad_norm(trained) if norm is None else norm
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    if max_value is not None and trained:
        nn.utils.clip_grad_value_(trained, max_value)
    return norm


class RMSpropTF(torch.optim.Optimizer):
    """RMSprop as TensorFlow's `RMSPropOptimizer` has it, with an L2 penalty in the gradient.

    `ms = alpha * ms + (1 - alpha) * g²`, from 1; `m = momentum * m + lr * g / sqrt(ms + eps)`; `w = w - m`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        alpha: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
    ) -> None:
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            # Few launches on a GPU; on a CPU one after the other, so that each stays in the cache (a third less time).
            for parameters in [trained] if any(p.is_cuda for p in trained) else [[p] for p in trained]:
                self._update(group, parameters)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients: Any = [parameter.grad for parameter in parameters]
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        states = [self._state(parameter, group["momentum"]) for parameter in parameters]
        squares = [state["square_avg"] for state in states]
        torch._foreach_mul_(squares, group["alpha"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
        roots = torch._foreach_add(squares, group["eps"])
        torch._foreach_sqrt_(roots)
        if group["momentum"] == 0:
            torch._foreach_addcdiv_(parameters, gradients, roots, value=-group["lr"])
            return
        moments = [state["momentum_buffer"] for state in states]
        torch._foreach_mul_(moments, group["momentum"])
        torch._foreach_addcdiv_(moments, gradients, roots, value=group["lr"])
        torch._foreach_sub_(parameters, moments)

    def _state(self, parameter: Tensor, momentum: float) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["square_avg"] = torch.ones_like(parameter, memory_format=torch.preserve_format)
            if momentum:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def _optimizer(settings: AnyOptimizer, groups: list[dict[str, Any]], fused: bool | None) -> torch.optim.Optimizer:
    lr, decay = groups[0]["lr"], settings.weight_decay  # torch wants an lr, though every group has its own
    match settings:
        case SGD(momentum=momentum, nesterov=nesterov):
            return torch.optim.SGD(groups, lr, momentum, weight_decay=decay, nesterov=nesterov, fused=fused)
        case AdamW(betas=(first, second), eps=eps):
            return torch.optim.AdamW(groups, lr, (first, second), eps, weight_decay=decay, fused=fused)
        case RMSprop(alpha=alpha, momentum=momentum, eps=eps, tf_eps=tf_eps):
            kind = RMSpropTF if tf_eps else torch.optim.RMSprop
            return kind(groups, lr, alpha, eps, decay, momentum)
        case Muon(aux=aux, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn):
            others = [group for group in groups if not group["matrices"]]
            return MuonWithAux(
                [group for group in groups if group["matrices"]],
                _optimizer(aux, others, fused) if others else None,
                momentum=momentum,
                nesterov=nesterov,
                weight_decay=decay,
                ns_steps=ns_steps,
                adjust_lr_fn=adjust_lr_fn,
            )
    raise AssertionError(f"no optimizer for {type(settings).__name__}")
