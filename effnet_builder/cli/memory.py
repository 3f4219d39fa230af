"""Check before the first step whether training and evaluation fit into memory, and explain it if they do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..arch.analysis import analyze
from ..arch.plan import Plan
from ..arch.summary import si
from ..config import ConfigError, Mark, Problem
from ..failures import is_out_of_memory
from ..train.data import free_memory
from ..train.predictions import infer
from ..train.probe import largest_batch, memory_step, micro_batches, spare_weights
from ..train.processes import Processes
from ..train.recipe import Recipe
from ..train.stages import evaluation, evaluation_batch
from .console import echo

if TYPE_CHECKING:
    from ..train.distill import Teacher
    from .compose import Material

_COPIES = 4  # weights, gradients, and as a rule two tensors of optimizer or average


class NotEnoughMemory(Exception):  # noqa: N818
    """Memory ran out, with what needed it and what would need less."""


def check_weights(plan: Plan) -> None:
    """Refuse a network that cannot be trained whatever the batch. Raises ConfigError."""
    needed, free = _COPIES * analyze(plan).weight_bytes, free_memory()
    if free is not None and needed > free:
        message = f"weights, gradients and optimizer need {si(needed, 'B')} of memory, {si(free, 'B')} are free"
        raise ConfigError([Problem(message, mark=Mark(plan.name))])


@contextmanager
def explaining_memory(material: Material, who: Processes) -> Iterator[None]:
    """Raise NotEnoughMemory for an error that says that memory ran out: with its size and a smaller batch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if who.place.doing.startswith(("evaluating", "testing")):
            count = material.eval_batch or evaluation_batch(material.recipe)
            raise NotEnoughMemory(f"out of memory, evaluating {count:,} images at a time") from error
        raise NotEnoughMemory(out_of_memory(material.plan, material.recipe, who)) from error


def out_of_memory(plan: Plan, recipe: Recipe, who: Processes) -> str:
    """Say what a step needs that found no memory, and which batch needs half of it, or fits by the plan."""
    part = _part(recipe, recipe.batch_size, who)
    need = si(analyze(plan).training_bytes(part, recipe.precision), "B")
    fewer = max(2, min(part // 2, _counted(plan, recipe, part) or part))
    advice = f"give --fit-batch, or accumulate: {-(-part // fewer) * recipe.accumulate}, which takes {fewer} at a time"
    return f"out of memory: a step on {part} images{_in(recipe)} keeps about {need}; {advice}"


def fit_into_memory(
    model: nn.Module,
    material: Material,
    device: torch.device,
    who: Processes,
    *,
    split: bool,
    teacher: Teacher | None = None,
) -> Material:
    """The material, with its batches in parts where they do not fit and may be `split`. Raises ConfigError.

    On CUDA the largest training step is tried, then the largest batch of an evaluation, which is made smaller if need
    be; on a CPU, where the system would rather kill than refuse, a training step is counted.
    """
    recipe, plan = material.recipe, material.plan
    batch = min(recipe.batch_size, len(material.train))
    part = _part(recipe, batch, who)
    cuda = device.type == "cuda"
    fits = _tried(model, material, device, part, teacher) if cuda else _counted(plan, recipe, part)
    fits = -who.most(-fits)
    if fits < part:
        parts = _parts(material, device, who, part, fits, split)
        material = replace(material, recipe=recipe.vary({"accumulate": parts}))
    return _fit_evaluation(model, material, device, who) if cuda else material


def _parts(material: Material, device: torch.device, who: Processes, part: int, fits: int, split: bool) -> int:
    """Return the number of micro-batches that fit, and say so; raise ConfigError unless they may be `split`."""
    recipe, batch = material.recipe, min(material.recipe.batch_size, len(material.train))
    share = -(-batch // who.count)
    need = si(analyze(material.plan).training_bytes(part, recipe.precision), "B")
    message = (
        f"a training step on {part} images{_in(recipe)} keeps about {need} and does not fit into the memory of {device}"
    )
    try:
        parts = micro_batches(share, fits)
    except ValueError:
        raise recipe.error([Problem(f"{message}; nor do 2 images", ("batch_size",))]) from None
    if not split:
        advice = f"{fits} images do: give --fit-batch, or accumulate: {parts}, or a batch_size of {fits * who.count}"
        raise recipe.error([Problem(f"{message}; {advice}", ("batch_size",))])
    echo(f"{message}: batches of {batch} are taken in {parts} parts of at most {-(-share // parts)} images")
    return parts


def _fit_evaluation(model: nn.Module, material: Material, device: torch.device, who: Processes) -> Material:
    """Return the material with the images that are evaluated at a time: those of a micro-batch, or what fits."""
    count = min(evaluation_batch(material.recipe), max(len(material.valid), len(material.dataset.test)))
    how = evaluation(material.recipe, material.plan.resolution, material.normalize)
    shape = material.valid.pixels.shape[1:]

    def step(n: int) -> None:
        spare = spare_weights(model, _COPIES - 2)
        with torch.no_grad():
            # One batch is evaluated while the next is being read.
            images = [torch.zeros(n, *shape, dtype=torch.uint8, device=device) for _ in range(2)]
            infer(model.eval(), images[0], how)
        del spare, images

    fits = -who.most(-largest_batch(step, count))
    if fits >= count:
        return material
    echo(f"evaluation takes {max(fits, 1)} images at a time: {count} do not fit into the memory of {device}")
    return replace(material, eval_batch=max(fits, 1))


def _in(recipe: Recipe) -> str:
    return "" if recipe.precision == "fp32" else f" in {recipe.precision}"


def _part(recipe: Recipe, batch: int, who: Processes) -> int:
    """Return the images of the largest micro-batch of a process."""
    share = -(-batch // who.count)
    return -(-share // recipe.accumulate)


def _tried(model: nn.Module, material: Material, device: torch.device, part: int, teacher: Teacher | None) -> int:
    """Return how many of `part` images a training step has memory for. Raises ConfigError, see `deterministic`."""
    plan, recipe = material.plan, material.recipe
    shape = (plan.in_channels, plan.resolution, plan.resolution)
    step = memory_step(
        model, shape, device, precision=recipe.precision, channels_last=recipe.channels_last, copies=_COPIES - 2,
        teacher=teacher,
    )  # fmt: skip
    try:
        return largest_batch(step, part)
    except RuntimeError as error:
        operation, refused, _ = str(error).partition(" does not have a deterministic implementation")
        if not refused:
            raise
        message = f"PyTorch has no deterministic kernel for {operation}, which {plan.name} needs"
        raise recipe.error([Problem(message, ("deterministic",))]) from None


def _counted(plan: Plan, recipe: Recipe, part: int) -> int:
    """How many of `part` images fit into what is free, by the plan; all of them where the system does not say."""
    free, analysis = free_memory(), analyze(plan)
    if free is None:
        return part
    fixed = analysis.training_bytes(0, recipe.precision)
    left = free - _COPIES * analysis.weight_bytes - fixed
    return max(0, min(part, left // (analysis.training_bytes(1, recipe.precision) - fixed)))
