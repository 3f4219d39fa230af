"""How the images of an epoch look: the same over the whole run, or growing in stages (EfficientNetV2, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .augment import InputPath
from .augment_settings import Mix
from .recipe import Normalize, Recipe


@dataclass(frozen=True)
class Stage:
    """Input path, mixing and dropout of some epochs; dropout None is the network's own."""

    inputs: InputPath
    mix: Mix | None
    dropout: float | None = None

    def set_dropout(self, model: nn.Module) -> None:
        """Give every dropout layer of a module this probability."""
        if self.dropout is not None:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = self.dropout


def stage_of(recipe: Recipe, resolution: int, normalize: Normalize, epoch: int) -> Stage:
    """The stage of an epoch, counted from 0, for a network that is made for a resolution.

    `stage = epoch * stages // epochs`, and each value is `start + (end - start) * stage / (stages - 1)`.
    """
    grow = recipe.progressive
    augment, mix, dropout = recipe.augment, recipe.mix, recipe.dropout
    if grow is not None:
        stage = epoch * grow.stages // recipe.epochs
        share = stage / (grow.stages - 1)
        resolution = round(resolution * _between(grow.resolution, 1.0, share))
        if grow.magnitude is not None:
            assert augment.policy is not None and augment.policy.type == "rand_augment"
            magnitude = _between(grow.magnitude, augment.policy.magnitude, share)
            augment = augment.vary({"policy.magnitude": magnitude})
        if grow.mixup is not None:
            assert mix is not None and mix.mixup is not None
            alpha = _between(grow.mixup, mix.mixup, share)
            mix = mix.vary({"mixup": alpha}) if alpha > 0 else None
        if grow.dropout is not None:
            assert dropout is not None
            dropout = _between(grow.dropout, dropout, share)
    return Stage(InputPath(resolution, normalize, augment, recipe.eval_crop), mix, dropout)


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
