"""How to train, as strict data; it says nothing of architectures and image sizes. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..config import Name, StrictModel, Text, load
from ..precisions import Precision
from .augment_settings import Augment, Mix, RandAugment
from .optim_settings import Clip, Distill, Ema, Optimizer
from .schedule import Schedule, endless_climb

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


class EarlyStop(StrictModel):
    """The run ends when validation has not become better for some time; what is kept are then its best weights."""

    patience: int = Field(ge=1, le=100_000, description="epochs without a better validation accuracy")
    min_delta: float = Field(0.0, ge=0, lt=1, description="by how much an accuracy must be better to count (0.001)")


class Progressive(StrictModel):
    """Small images and little regularization first, growing in stages to what the recipe says (Tan & Le 2021, 4.2).

    Each value grows in equal steps from the first stage, which is given here, to the last, which is the recipe's own.
    """

    stages: int = Field(ge=2, le=100, description="parts of the run, of equally many epochs")
    resolution: float = Field(gt=0, le=1, description="image size of the first stage, as a share of the network's")
    magnitude: int | None = Field(None, ge=0, le=30, description="of rand_augment in the first stage")
    mixup: float | None = Field(None, ge=0, le=10, description="alpha of mixup in the first stage; 0 for none")
    dropout: float | None = Field(None, ge=0, lt=1, description="in the first stage")


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
    progressive: Progressive | None = Field(None, description="stages of growing images and regularization")
    dropout: float | None = Field(None, ge=0, lt=1, description="before the classifier, instead of the spec's")
    drop_path_rate: float | None = Field(None, ge=0, lt=1, description="of the last block, instead of the spec's")
    distill: Distill | None = Field(
        None, description="learn also from another network's outputs (train-arch --teacher)"
    )
    early_stop: EarlyStop | None = Field(None, description="end the run when validation no longer improves")
    keep: Literal["last", "best"] = Field(
        "last", description="the weights to keep: of the last epoch, or of the one with the best validation accuracy"
    )
    norm_images: int | None = Field(
        None,
        ge=2,
        le=10_000_000,
        description="training images from which the statistics of batch norms are measured anew for what is kept",
    )
    sync_batch_norm: bool = Field(
        False,
        description="take the statistics of batch norms over the images of all processes, of a micro-batch where there "
        "is accumulate; otherwise each process has its own in a step",
    )
    accumulate: int = Field(
        1, ge=1, le=65_536, description="parts that a batch goes through the network in, to need less memory"
    )
    precision: Precision = Field(
        "fp32", description="of the forward pass: fp32; tf32, products of 10 bits; bf16 or fp16 by autocast"
    )
    deterministic: bool = Field(
        False,
        description="on CUDA, use only kernels that give the same bits in each run on the same GPU model, driver and "
        "versions; slower, and an error for a network that needs another one (max pooling). A CPU always does",
    )
    channels_last: bool = Field(True, description="keep the channels of a pixel together in memory")
    compile: bool = Field(False, description="compile the network with torch.compile")
    skip_limit: int = Field(
        10,
        ge=1,
        le=1_000_000,
        description="steps in a row without a finite loss and gradient, after which the run goes back to its last "
        "checkpoint, once; such steps change nothing",
    )
    normalize: Normalize | None = Field(None, description="mean and std; measured on the training images if left out")
    valid_fraction: float = Field(0.1, gt=0, lt=1, description="share of the training images held out for validation")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of split, order, augmentation, weights and dropout")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """A warm-up that the run ends in, what is not compiled, and what would grow in stages but has no end."""
        yield from ((f"schedule.{name}", reason) for name, reason in endless_climb(self.schedule, self.epochs))
        if self.compile and self.sync_batch_norm:
            yield "compile", "does not go with sync_batch_norm, whose exchanges cannot be compiled"
        grow, policy = self.progressive, self.augment.policy
        if grow is None:
            return
        if grow.stages > self.epochs:
            yield "progressive.stages", f"{grow.stages} stages do not fit into {self.epochs} epochs"
        if grow.magnitude is not None and not isinstance(policy, RandAugment):
            yield "progressive.magnitude", "has no effect without augment.policy of type rand_augment"
        if grow.mixup is not None and (self.mix is None or self.mix.mixup is None):
            yield "progressive.mixup", "has no effect without mix.mixup"
        if grow.dropout is not None and self.dropout is None:
            yield "progressive.dropout", "has no end to grow to without dropout"


def load_recipe(source: str | os.PathLike[str], overrides: Mapping[str, object] | None = None) -> Recipe:
    """A recipe by name (`notebook`) or a YAML file by path, with values replaced by path. Raises ConfigError."""
    return load(Recipe, source, "recipes", overrides)
