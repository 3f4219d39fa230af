"""Muon: momentum made orthogonal for weight matrices, with another optimizer for everything else, as one optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .skipping import found_inf, one_if, start_momentum, supports_skipping, zero_if

Adjustment = Literal["original", "match_rms_adamw"]

# Of the iteration x <- a x + b (x x') x + c (x x')² x: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_EPS = 1e-7


class MuonWithAux(torch.optim.Optimizer):
    """`torch.optim.Muon` also for weights of convolutions, as (out, in * kh * kw), and `aux` for its own groups.

    `m = momentum * m + (1 - momentum) * g`; `u = (1 - momentum) * g + momentum * m` with nesterov, else m;
    `w = (1 - lr * weight_decay) * w - lr * adjusted * orthogonalize(u)`. Groups and state of `aux` are part of
    those of this optimizer, after the matrices.
    """

    def __init__(
        self,
        matrices: list[dict[str, Any]],
        aux: torch.optim.Optimizer | None,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.01,
        ns_steps: int = 5,
        adjust_lr_fn: Adjustment = "original",
    ) -> None:
        settings: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        settings |= {"ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
        self.aux = aux
        self._step_supports_amp_scaling = aux is None or supports_skipping(aux)
        self.matrix_groups = len(matrices)
        groups = [settings | group for group in matrices]
        super().__init__(groups + ([] if aux is None else aux.param_groups), {})

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
        for group in self.param_groups[: self.matrix_groups]:
            if trained := [parameter for parameter in group["params"] if parameter.grad is not None]:
                self._update(group, trained, bad)
        if self.aux is not None:
            # Given again at each step: a loaded state dict puts new groups and a new state into this optimizer.
            self.aux.param_groups, self.aux.state = self.param_groups[self.matrix_groups :], self.state
            start_momentum(self.aux)
            self.aux.grad_scale, self.aux.found_inf = None, bad  # type: ignore[attr-defined]
            self.aux.step()
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor], bad: Tensor | None = None) -> None:
        gradients: Any = [parameter.grad for parameter in parameters]
        moments = [self._moment(parameter) for parameter in parameters]
        factor = 1 - group["lr"] * group["weight_decay"]
        decay: float | Tensor = factor
        if bad is None:
            torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
        else:
            decay, gradients = one_if(bad, factor, parameters[0]), zero_if(bad, gradients)
            steps = torch._foreach_sub(gradients, moments)
            # A lerp takes no weight that only the device knows.
            torch._foreach_mul_(steps, ((1 - group["momentum"]) * (1 - bad)).to(parameters[0].dtype))
            torch._foreach_add_(moments, steps)
        updates = torch._foreach_lerp(gradients, moments, group["momentum"]) if group["nesterov"] else moments
        torch._foreach_mul_(parameters, decay)
        # Matrices of one shape together: their products are small, and on a GPU launches are what they cost.
        alike: dict[torch.Size, list[int]] = {}
        matrices = [update.flatten(1) for update in updates]
        for i, matrix in enumerate(matrices):
            alike.setdefault(matrix.shape, []).append(i)
        for shape, indices in alike.items():
            directions = orthogonalize(torch.stack([matrices[i] for i in indices]), group["ns_steps"])
            directions = directions if bad is None else directions * (1 - bad).to(directions.dtype)
            size = -group["lr"] * _adjusted(group["adjust_lr_fn"], *shape)
            for i, direction in zip(indices, directions, strict=True):
                parameters[i].add_(direction.view(parameters[i].shape), alpha=size)

    def _moment(self, parameter: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["momentum_buffer"]


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """(B, m, n) to about the nearest orthogonal matrices: the same singular vectors, values from about 0.7 to 1.2.

    By Newton-Schulz steps; values below about a thousandth of the Frobenius norm stay smaller than that. In bfloat16 on
    CUDA, as torch has it; elsewhere in the dtype at hand, because few CPUs have products of bfloat16.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return (x.mT if tall else x).contiguous()


def _adjusted(how: Adjustment, rows: int, columns: int) -> float:
    """Factor of the learning rate for a matrix: Jordan's, or that of Liu et al. 2025 (arXiv 2502.16982)."""
    return math.sqrt(max(1, rows / columns)) if how == "original" else 0.2 * math.sqrt(max(rows, columns))
