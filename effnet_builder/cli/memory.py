"""Whether a batch fits into the memory: asked before the first step, answered with the batch that does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..arch.analysis import analyze
from ..arch.plan import Plan
from ..arch.summary import si
from ..config import ConfigError, Mark, Problem
from ..train.data import free_memory
from ..train.probe import largest_batch, memory_step, micro_batches
from ..train.processes import ALONE, Processes
from ..train.recipe import Recipe
from .console import echo

if TYPE_CHECKING:
    from .compose import Material

_COPIES = 4  # weights, gradients, and as a rule two tensors of optimizer or average


def check_weights(plan: Plan) -> None:
    """Refuse a network that cannot be trained whatever the batch. Raises ConfigError."""
    needed, free = _COPIES * analyze(plan).weight_bytes, free_memory()
    if free is not None and needed > free:
        message = f"weights, gradients and optimizer need {si(needed, 'B')} of memory, {si(free, 'B')} are free"
        raise ConfigError([Problem(message, mark=Mark(plan.name))])


def out_of_memory(plan: Plan, recipe: Recipe, who: Processes = ALONE) -> str:
    """What to say where a step found no memory: what it needs, and a batch of half of it, or that fits by the plan."""
    part = -(-recipe.batch_size // (who.count * recipe.accumulate))
    need = si(part * analyze(plan).training_bytes_per_image, "B")
    fewer = max(2, min(part // 2, _counted(plan, part) or part))
    advice = f"give --fit-batch, or accumulate: {-(-part // fewer) * recipe.accumulate}, which takes {fewer} at a time"
    return f"out of memory: a step on {part} images keeps about {need}; {advice}"


def fit_into_memory(
    model: nn.Module, material: Material, device: torch.device, who: Processes, *, split: bool
) -> Material:
    """The material, with its batches in parts where they do not fit and may be `split`. Raises ConfigError.

    On CUDA the largest step is tried; on a CPU, where the system would rather kill than refuse, it is counted.
    """
    recipe = material.recipe
    batch = min(recipe.batch_size, len(material.train))
    share = -(-batch // who.count)
    part = -(-share // recipe.accumulate)
    fits = _tried(model, material, part, device) if device.type == "cuda" else _counted(material.plan, part)
    fits = -who.most(-fits)
    if fits >= part:
        return material
    need = si(part * analyze(material.plan).training_bytes_per_image, "B")
    message = f"a training step on {part} images keeps about {need} and does not fit into the memory of {device}"
    try:
        parts = micro_batches(share, fits)
    except ValueError:
        raise recipe.error([Problem(f"{message}; nor do 2 images", ("batch_size",))]) from None
    if not split:
        advice = f"{fits} images do: give --fit-batch, or accumulate: {parts}, or a batch_size of {fits * who.count}"
        raise recipe.error([Problem(f"{message}; {advice}", ("batch_size",))])
    echo(f"{message}: batches of {batch} are taken in {parts} parts of at most {-(-share // parts)} images")
    return replace(material, recipe=recipe.vary({"accumulate": parts}))


def _tried(model: nn.Module, material: Material, part: int, device: torch.device) -> int:
    plan, recipe = material.plan, material.recipe
    shape = (plan.in_channels, plan.resolution, plan.resolution)
    step = memory_step(
        model, shape, device, precision=recipe.precision, channels_last=recipe.channels_last, copies=_COPIES - 2
    )
    return largest_batch(step, part)


def _counted(plan: Plan, part: int) -> int:
    """How many of `part` images fit into what is free, by the plan; all of them where the system does not say."""
    free, analysis = free_memory(), analyze(plan)
    if free is None:
        return part
    left = free - _COPIES * analysis.weight_bytes
    return max(0, min(part, left // analysis.training_bytes_per_image))
