"""An exponential moving average of a module: weights and buffers, as a module of its own."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from .durations import steps
from .optim_settings import Ema


def ema_decay(horizon: int, step: int) -> float:
    """`min(1 - 1 / horizon, (1 + t) / (10 + t))` for the update after step t, counted from 0."""
    return min(1 - 1 / horizon, (1 + step) / (10 + step))


class EmaModel:
    """The average beside the module that is trained, which it never touches.

    Floating-point parameters and buffers (statistics of batch norm) are averaged, whole numbers are copied. An update
    depends on its step and the two modules alone, so that a resumed run continues exactly.
    """

    def __init__(self, model: nn.Module, settings: Ema, *, steps_per_epoch: int, total_steps: int) -> None:
        self.horizon = steps(settings.horizon, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
        # What torch.compile made of a module would take its compiled code along.
        self.module: nn.Module = copy.deepcopy(getattr(model, "_orig_mod", model)).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, unless: Tensor | None = None) -> None:
        """Move towards the module as it is after a step, counted from 0. Does not wait for the device.

        Where `unless`, a truth value () on the device, is given and true, the average stays as it is, to the last bit.
        """
        weight = 1 - ema_decay(self.horizon, step)
        averaged: tuple[list[Tensor], list[Tensor]] = [], []
        copied: tuple[list[Tensor], list[Tensor]] = [], []
        for mine, current in zip(_tensors(self.module), _tensors(model), strict=True):
            kind = averaged if mine.is_floating_point() else copied
            kind[0].append(mine)
            kind[1].append(current)
        # In place, also for those who hold the tensors: a compiled or exported evaluation sees the new values.
        if unless is None:
            torch._foreach_lerp_(*averaged, weight)
        elif averaged[0]:
            ways = torch._foreach_sub(averaged[1], averaged[0])
            torch._foreach_mul_(ways, weight * ~unless)  # a lerp takes no weight that only the device knows
            torch._foreach_add_(averaged[0], ways)
        if copied[0]:
            torch._foreach_copy_(*copied)

    def state_dict(self) -> dict[str, Tensor]:
        """The average alone: there is no other state."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from an average that was saved. Raises RuntimeError where it is of another module."""
        self.module.load_state_dict(state)


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())
