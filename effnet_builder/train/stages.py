"""How the images of an epoch look: the same over the whole run, or growing in stages (EfficientNetV2, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .augment import InputPath
from .augment_settings import Mix, RandAugment
from .predictions import Evaluation
from .processes import ALONE, Processes
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
    grow, augment, mix, dropout = recipe.progressive, recipe.augment, recipe.mix, recipe.dropout
    if grow is not None:
        share = (epoch * grow.stages // recipe.epochs) / (grow.stages - 1)
        resolution = max(1, round(resolution * _between(grow.resolution, 1.0, share)))
        if grow.magnitude is not None and isinstance(augment.policy, RandAugment):
            magnitude = round(_between(grow.magnitude, augment.policy.magnitude, share))
            augment = augment.model_copy(update={"policy": augment.policy.model_copy(update={"magnitude": magnitude})})
        if grow.mixup is not None and mix is not None and mix.mixup is not None:
            mix = _with_mixup(mix, _between(grow.mixup, mix.mixup, share))
        if grow.dropout is not None and dropout is not None:
            dropout = _between(grow.dropout, dropout, share)
    return Stage(InputPath(resolution, normalize, augment, recipe.eval_crop), mix, dropout)


def evaluation(
    recipe: Recipe,
    resolution: int,
    normalize: Normalize,
    processes: Processes | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """How a recipe's network is evaluated: without augmentation, at the size it is made for, in every stage.

    In batches of `batch_size`, or of the images of a micro-batch, however many processes share it: the results are
    then the same for any number of them.
    """
    inputs = InputPath(resolution, normalize, recipe.augment, recipe.eval_crop)
    count = batch_size or evaluation_batch(recipe)
    return Evaluation(inputs, count, recipe.precision, recipe.channels_last, processes=processes or ALONE)


def evaluation_batch(recipe: Recipe) -> int:
    """Return the images that are evaluated at a time, unless memory allows fewer: those of a micro-batch."""
    return -(-recipe.batch_size // recipe.accumulate)


def _with_mixup(mix: Mix, alpha: float) -> Mix | None:
    """The same mixing with another alpha; 0 is no mixup, which may leave none at all."""
    if alpha == 0 and mix.cutmix is None:
        return None
    return mix.model_copy(update={"mixup": alpha or None})


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
