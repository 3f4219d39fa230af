"""Stem and stages: what classifier and feature network share, with activation checkpointing and freezing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..arch.plan import Plan
from .blocks import Block
from .layers import ConvNormAct


class Trunk(nn.Module):
    """The first `stages` stages of a plan, or all. The paths are those of the plan: `stem`, `stages.2.0.depthwise`."""

    def __init__(self, plan: Plan, stages: int | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.stem = ConvNormAct(plan.stem)
        self.stages = nn.Sequential(*(nn.Sequential(*map(Block, stage.blocks)) for stage in plan.stages[:stages]))
        self._checkpointed: frozenset[int] = frozenset()
        self._frozen = -1

    def set_grad_checkpointing(self, enable: bool = True, stages: Collection[int] | None = None) -> None:
        """Compute the activations of all or some stages again in the backward pass instead of keeping them.

        The statistics of batch norms move once for each step, as without it.
        """
        chosen = range(len(self.stages)) if stages is None else stages
        if unknown := [stage for stage in chosen if not 0 <= stage < len(self.stages)]:
            raise ValueError(f"no stage {unknown[0]}: there are 0 to {len(self.stages) - 1}")
        self._checkpointed = frozenset(chosen) if enable else frozenset()

    def freeze(self, stages: int | None = None) -> None:
        """Hold the stem and the first `stages` stages, or all: no gradients, and norms as in evaluation.

        Gradients stay off until `requires_grad_()`; the norms stay held, also in `train()`, until `freeze(-1)`.
        """
        count = len(self.stages) if stages is None else stages
        if not -1 <= count <= len(self.stages):
            raise ValueError(f"cannot freeze {count} stages: there are {len(self.stages)}")
        self._frozen = count
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Any:
        """As torch's, but frozen parts stay in evaluation."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        """(N, C, H, W) images to the outputs of the stem and of each stage, as they are computed."""
        x = self.stem(x)
        yield x
        for i, stage in enumerate(self.stages):
            if i in self._checkpointed and torch.is_grad_enabled():
                x = checkpoint(stage, x, use_reentrant=False, context_fn=_recomputing(stage))
            else:
                x = stage(x)
            yield x

    def _frozen_parts(self) -> list[nn.Module]:
        return [] if self._frozen < 0 else [self.stem, *self.stages[: self._frozen]]


def _recomputing(stage: nn.Module) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """For `checkpoint`: nothing special in the forward pass, statistics held in the one that repeats it."""
    return lambda: (nullcontext(), _held_statistics(stage))


@contextmanager
def _held_statistics(module: nn.Module) -> Iterator[None]:
    # A momentum of 0 and no counter, instead of `track_running_stats`: checkpoint wants the same tensors saved.
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d) and child.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
