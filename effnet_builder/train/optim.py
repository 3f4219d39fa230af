"""Build the optimizer of a recipe: torch's SGD and AdamW, RMSprop, Muon; the norm of gradients and clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .groups import parameter_groups
from .muon import MuonWithAux
from .optim_settings import SGD, AdamW, AnyOptimizer, Muon, RMSprop
from .rmsprop import RMSpropOptimizer


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


def _optimizer(settings: AnyOptimizer, groups: list[dict[str, Any]], fused: bool | None) -> torch.optim.Optimizer:
    lr, decay = groups[0]["lr"], settings.weight_decay  # torch wants an lr, though every group has its own
    match settings:
        case SGD(momentum=momentum, nesterov=nesterov):
            return torch.optim.SGD(groups, lr, momentum, weight_decay=decay, nesterov=nesterov, fused=fused)
        case AdamW(betas=(first, second), eps=eps):
            return torch.optim.AdamW(groups, lr, (first, second), eps, weight_decay=decay, fused=fused)
        case RMSprop(alpha=alpha, momentum=momentum, eps=eps, tf_eps=tf_eps):
            return RMSpropOptimizer(groups, lr, alpha, eps, decay, momentum, tf_eps)
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
