"""The network that another one learns from: a file of weights, which carries its spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import ConfigError, Mark, Problem
from .compose import Material, normalization_of
from .console import echo

if TYPE_CHECKING:
    import torch

    from ..train.distill import Teacher


def teacher_of(file: str | None, material: Material, device: torch.device) -> Teacher | None:
    """The network of `--teacher`, which a recipe with `distill` must have, and no other. Raises ConfigError."""
    from ..models.network import build_model
    from ..train.distill import Teacher

    if material.recipe.distill is None:
        if file is not None:
            raise ConfigError([Problem("the recipe has no distill", mark=Mark(f"--teacher {file}"))])
        return None
    if file is None:
        message = f"missing: the recipe {material.recipe.name} learns from another network; give its model.safetensors"
        raise ConfigError([Problem(message, mark=Mark("--teacher"))])
    mark = Mark(f"--teacher {file}")
    if not file.endswith(".safetensors"):
        raise ConfigError([Problem("expected a .safetensors file that effnet_builder wrote", mark=mark)])
    model = build_model(file)
    plan, classes = model.plan, len(material.dataset.classes)
    if plan.num_classes != classes:
        raise ConfigError([Problem(f"has {plan.num_classes} classes, the data have {classes}", mark=mark)])
    if plan.in_channels != material.plan.in_channels:
        message = f"takes {plan.in_channels} channels, {material.plan.name} takes {material.plan.in_channels}"
        raise ConfigError([Problem(message, mark=mark)])
    echo(f"learning from {plan.name} ({file})")
    return Teacher(model.to(device), normalization_of(plan, mark) or material.normalize, material.normalize)
