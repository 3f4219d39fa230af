"""How training images are changed and mixed, as strict data. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from ..config import StrictModel

_TYPE = "the kind of policy"
_ACTED_ON = "px of the image it acts on, see resize_first"


def _flip(value: object) -> object:
    if value is not True and value is not False and value not in ("random", "alternating"):
        raise ValueError("expected true, false, 'random' or 'alternating'")
    return value


# A Literal alone would take 1 for True; a union alone would tell one mistake twice.
HorizontalFlip = Annotated[bool | Literal["random", "alternating"], BeforeValidator(_flip)]
Probability = Annotated[float, Field(gt=0, le=1)]
_Ratio = Annotated[float, Field(ge=0.01, le=100)]


def _falling(low_high: Sequence[float]) -> bool:
    low, high = low_high
    return low > high


class _Rectangle(StrictModel):
    """A rectangle of random area and shape."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Ranges that end before they start."""
        for key in ("scale", "ratio"):
            if _falling(getattr(self, key)):
                yield key, "the first number is above the second; expected the smallest, then the largest"


class RandomResizedCrop(_Rectangle):
    """A random part of the stored image, resized to the network's input (Szegedy et al. 2015; torchvision's).

    Ten tries to draw area and shape so that the part lies inside the image, else the largest central part that the
    ratios allow. Bilinear, and antialiased where the part is larger than the input.
    """

    scale: tuple[Probability, ...] = Field(
        (0.08, 1.0), strict=False, min_length=2, max_length=2, description="smallest and largest share of the area"
    )
    ratio: tuple[_Ratio, ...] = Field(
        (3 / 4, 4 / 3), strict=False, min_length=2, max_length=2, description="smallest and largest width / height"
    )


class _Policy(StrictModel):
    """What all policies have."""

    interpolation: Literal["nearest", "bilinear"] = Field(
        "nearest", description="between pixels, where an operation moves them"
    )
    fill: int = Field(0, ge=0, le=255, description="level of what an operation brings in from outside; 0 is black")


class RandAugment(_Policy):
    """Operations drawn for each image, all of one magnitude (Cubuk et al. 2020; torchvision's 14 with 31 levels)."""

    type: Literal["rand_augment"] = Field(description=_TYPE)
    num_ops: int = Field(2, ge=1, le=20, description="operations, one after the other; one may come twice")
    magnitude: int = Field(9, ge=0, le=30, description="strength of every operation")


class TrivialAugment(_Policy):
    """One operation for each image, of random magnitude: TrivialAugment Wide (Mueller & Hutter 2021; torchvision's)."""

    type: Literal["trivial_augment"] = Field(description=_TYPE)


class AutoAugment(_Policy):
    """One of 25 learned pairs of operations for each image (Cubuk et al. 2019; torchvision's tables)."""

    type: Literal["auto_augment"] = Field(description=_TYPE)
    policy: Literal["imagenet", "cifar10", "svhn"] = Field(description="the data that the pairs were learned on")


AnyPolicy: TypeAlias = RandAugment | TrivialAugment | AutoAugment
Policy = Annotated[AnyPolicy, Field(discriminator="type")]


class Erasing(_Rectangle):
    """A random rectangle of the normalized image is overwritten (Zhong et al. 2020; torchvision's)."""

    probability: Probability = Field(0.5, description="share of the images")
    scale: tuple[Probability, ...] = Field(
        (0.02, 0.33), strict=False, min_length=2, max_length=2, description="smallest and largest share of the area"
    )
    ratio: tuple[_Ratio, ...] = Field(
        (0.3, 3.3), strict=False, min_length=2, max_length=2, description="smallest and largest height / width"
    )
    value: Literal["zero", "noise"] = Field(
        "zero", description="zero after normalization, which is the mean colour; or standard normal numbers"
    )


class Cutout(StrictModel):
    """A square around a random pixel of the normalized image becomes zero, the mean colour (DeVries & Taylor 2017)."""

    size: int = Field(ge=1, le=10_000, description=f"side in {_ACTED_ON}; what lies outside the image is cut off")
    probability: Probability = Field(1.0, description="share of the images")


class Augment(StrictModel):
    """Random changes of the training images, drawn anew for each image and epoch.

    In this order: random_resized_crop, policy, horizontal_flip, crop_padding; after normalization erasing and cutout.
    """

    random_resized_crop: RandomResizedCrop | None = Field(
        None, description="a random part, resized; else the centre that evaluation sees"
    )
    resize_first: bool = Field(
        False,
        description="resize to the network's input before all changes, also images that are smaller: these are else "
        "changed at their stored size, which is cheaper, and then enlarged",
    )
    policy: Policy | None = Field(None, description="operations on colours and shapes, drawn for each image")
    horizontal_flip: HorizontalFlip = Field(
        False,
        description="mirror at random (true, random), or in every other epoch (alternating), which of them by the "
        "index of the image",
    )
    crop_padding: int = Field(0, ge=0, le=1000, description=f"border of which a random window is kept, in {_ACTED_ON}")
    padding_mode: Literal["constant", "reflect"] = Field(
        "constant", description="of the border: black, or the image mirrored at its edge"
    )
    erasing: Erasing | None = Field(None, description="overwrite a random rectangle")
    cutout: Cutout | None = Field(None, description="overwrite a square")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """What could not act."""
        if "padding_mode" in self.model_fields_set and self.crop_padding == 0:
            yield "padding_mode", "has no effect without crop_padding; leave it out, or give crop_padding"
        if self.resize_first and self.random_resized_crop is not None:
            yield "resize_first", "has no effect beside random_resized_crop, which resizes before all other changes"


class Mix(StrictModel):
    """Batches of which each image is mixed with another, and the labels with it.

    One share for the whole batch, from Beta(alpha, alpha); the other image is the one before it in the batch, or in
    the part of the batch that a process has.
    """

    mixup: float | None = Field(
        None, gt=0, le=100, description="alpha; every pixel is mixed (Zhang et al. 2018); none if left out"
    )
    cutmix: float | None = Field(
        None, gt=0, le=100, description="alpha; a box is taken from the other (Yun et al. 2019); none if left out"
    )
    probability: Probability = Field(1.0, description="share of the batches that are mixed")
    switch: float = Field(0.5, gt=0, lt=1, description="with both: share of the mixed batches that cutmix gets")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """No way of mixing, or a choice where there is none."""
        if self.mixup is None and self.cutmix is None:
            yield "mixup", "missing; expected a number above 0 to 100, or cutmix"
        elif "switch" in self.model_fields_set and (self.mixup is None or self.cutmix is None):
            yield "switch", "has no effect without both mixup and cutmix"
