"""How to train, as strict data; it says nothing of architectures and image sizes. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from ..config import Name, StrictModel, Text, load
from .augment_settings import Augment, Mix
from .optim_settings import Clip, Ema, Optimizer
from .schedule import Schedule

Channel = Annotated[float, Field(ge=0, le=1)]


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
    optimizer: Optimizer = Field(description="how gradients change the weights")
    schedule: Schedule = Field(description="the learning rate of each step, as a share of the optimizer's")
    clip: Clip | None = Field(None, description="a bound on the gradients of each step")
    ema: Ema | None = Field(None, description="an average of the weights, which is then what is kept")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    augment: Augment = Field(Augment(), description="random changes of the training images")
    mix: Mix | None = Field(None, description="mixtures of two images and their labels")
    eval_crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the stored image's side that evaluation keeps, from its centre; training too, unless it "
        "has random_resized_crop",
    )
    normalize: Normalize | None = Field(None, description="mean and std; measured on the training images if left out")
    valid_fraction: float = Field(0.1, gt=0, lt=1, description="share of the training images held out for validation")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of split, order, augmentation, weights and dropout")


def load_recipe(source: str | os.PathLike[str], overrides: Mapping[str, object] | None = None) -> Recipe:
    """A recipe by name (`notebook`) or a YAML file by path, with values replaced by path. Raises ConfigError."""
    return load(Recipe, source, "recipes", overrides)
