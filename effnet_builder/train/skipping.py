"""Skip an optimizer step on the device: the host need not know whether loss and gradients are finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def supports_skipping(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether `step` leaves everything as it is if `optimizer.found_inf`, a float () on the device, is 1.

    torch's fused optimizers do, and those of this package. It is how torch's GradScaler tells them.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def found_inf(optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Return what says that a step is bad, a float () of 0 or 1, if it is on CUDA; on a CPU only if it is 1."""
    bad: Tensor | None = getattr(optimizer, "found_inf", None)
    return bad if bad is not None and (bad.is_cuda or bool(bad)) else None


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Allocate the momentum of SGD as zeros, with which its first step is the same.

    torch's fused kernel allocates it uninitialized and writes it in the first step, unless that step is skipped: the
    next one then adds garbage to the weights.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if optimizer.state[parameter].get("momentum_buffer") is not None:
                return  # they are allocated, and loaded, all at once
            zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            optimizer.state[parameter]["momentum_buffer"] = zeros


def zero_if(bad: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of tensors of one dtype on CUDA, or zeros if `bad`, a float () of 0 or 1; in few launches.

    A product with 0 would keep NaN, and torch has no `where` for lists. A fused SGD step from zero, `0 - (-1) * x`,
    is one: its kernel does nothing if `found_inf` is 1.
    """
    copies = [torch.empty_like(tensor, memory_format=torch.preserve_format) for tensor in tensors]
    torch._foreach_zero_(copies)
    torch._fused_sgd_(
        copies, list(tensors), [], weight_decay=0.0, momentum=0.0, lr=-1.0, dampening=0.0, nesterov=False,
        maximize=False, is_first_step=False, found_inf=bad,
    )  # fmt: skip
    return copies


def one_if(bad: Tensor, value: float, like: Tensor) -> Tensor:
    """Return `value`, or 1 if `bad`, as a tensor () of the dtype of `like`: a factor that then changes nothing."""
    return torch.where(bad > 0, 1.0, value).to(like.dtype)
