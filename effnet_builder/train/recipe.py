"""How to train, as strict data; it says nothing of architectures and image sizes. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..config import Name, StrictModel, Text, load

Channel = Annotated[float, Field(ge=0, le=1)]


class SGD(StrictModel):
    """Stochastic gradient descent with momentum (`torch.optim.SGD`)."""

    type: Literal["sgd"] = Field(description="the kind of optimizer")
    lr: float = Field(gt=0, le=100, description="learning rate at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step that goes into the next; 0 for none")
    weight_decay: float = Field(0.0, ge=0, le=1, description="L2 penalty on every weight")
    nesterov: bool = Field(False, description="look ahead along the momentum")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class StepSchedule(StrictModel):
    """`lr * gamma ** (epoch // step_size)`, epochs counted from 0 (`torch.optim.lr_scheduler.StepLR`)."""

    type: Literal["step"] = Field(description="the kind of schedule")
    step_size: int = Field(ge=1, le=100_000, description="epochs from one drop to the next")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each drop")

    def lr(self, base: float, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return float(base * self.gamma ** (epoch // self.step_size))


class Augment(StrictModel):
    """Random changes of the training images, drawn anew for each image and epoch."""

    horizontal_flip: bool = Field(False, description="mirror every second image")
    crop_padding: int = Field(0, ge=0, le=1000, description="px of black border, of which a random window is kept")


class Normalize(StrictModel):
    """`(x - mean) / std` per channel, with x from 0 to 1."""

    mean: tuple[Channel, ...] = Field(
        strict=False, min_length=1, max_length=1000, description="of each channel, of pixels from 0 to 1"
    )
    std: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        strict=False, min_length=1, max_length=1000, description="of each channel, of pixels from 0 to 1"
    )

    @model_validator(mode="after")
    def _same_length(self) -> Normalize:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std has {len(self.std)}")
        return self


class Recipe(StrictModel):
    """One way of training."""

    name: Name
    description: Text | None = Field(None, description="what it is for")
    source: Text | None = Field(None, description="paper, table, code")
    epochs: int = Field(ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(ge=2, le=65_536, description="images of one optimizer step; batch norm needs two")
    optimizer: SGD = Field(description="how gradients change the weights")
    schedule: StepSchedule = Field(description="the learning rate of each epoch")
    augment: Augment = Field(Augment(), description="random changes of the training images")
    normalize: Normalize | None = Field(None, description="mean and std; measured on the training images if left out")
    valid_fraction: float = Field(0.1, gt=0, lt=1, description="share of the training images held out for validation")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of split, order, augmentation, weights and dropout")


def load_recipe(source: str | os.PathLike[str], overrides: Mapping[str, object] | None = None) -> Recipe:
    """A recipe by name (`notebook`) or a YAML file by path, with values replaced by path. Raises ConfigError."""
    return load(Recipe, source, "recipes", overrides)
