"""What changes the weights, as strict data: optimizers, gradient clipping, the average of weights. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from ..config import StrictModel
from .durations import Duration

_TYPE = "the kind of optimizer"
_DECAY = "L2 penalty on every weight that decays"
_NO_DECAY = (
    "parameters without weight decay: weights and biases of norms, biases of other layers, weights of depthwise "
    "convolutions"
)

ParameterKind = Literal["norm", "bias", "depthwise"]
NoDecay = Annotated[tuple[ParameterKind, ...], Field(strict=False, min_length=0, max_length=3)]


class _Optimizer(StrictModel):
    """What all optimizers have."""

    lr: float = Field(gt=0, le=100, description="learning rate, of which the schedule takes a share")
    lr_batch_size: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="images of the batch that lr is meant for: lr * batch_size / lr_batch_size is used; else lr itself",
    )
    no_decay: NoDecay = Field(("norm", "bias"), description=_NO_DECAY)

    def base_lr(self, batch_size: int) -> float:
        """The learning rate for batches of this size (linear scaling, Goyal et al. 2017)."""
        return self.lr if self.lr_batch_size is None else self.lr * batch_size / self.lr_batch_size

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """A kind named twice."""
        if len(set(self.no_decay)) < len(self.no_decay):
            yield "no_decay", "names a kind twice"


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum (`torch.optim.SGD`)."""

    type: Literal["sgd"] = Field(description=_TYPE)
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step that goes into the next; 0 for none")
    weight_decay: float = Field(0.0, ge=0, le=1, description=_DECAY)
    nesterov: bool = Field(False, description="look ahead along the momentum")
    no_decay: NoDecay = Field((), description=_NO_DECAY)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """A look ahead along nothing."""
        yield from super().conflicts()
        if self.nesterov and self.momentum == 0:
            yield "nesterov", "nesterov needs a momentum above 0"


class AdamW(_Optimizer):
    """Adam with decoupled weight decay (`torch.optim.AdamW`, Loshchilov & Hutter 2019)."""

    type: Literal["adamw"] = Field(description=_TYPE)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.9, 0.999),
        strict=False,
        min_length=2,
        max_length=2,
        description="shares of the last averages that go into the next: of the gradient, of its square",
    )
    eps: float = Field(1e-8, gt=0, le=1, description="added to the root of the mean square")
    weight_decay: float = Field(0.01, ge=0, le=1, description="share of a weight that lr = 1 takes away at each step")


class RMSprop(_Optimizer):
    """Gradients over their running root mean square (Hinton 2012), with the EfficientNet authors' defaults."""

    type: Literal["rmsprop"] = Field(description=_TYPE)
    alpha: float = Field(0.9, ge=0, lt=1, description="share of the last mean square that goes into the next")
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step that goes into the next; 0 for none")
    eps: float = Field(1e-3, gt=0, le=1, description="added to the mean square, or to its root; see tf_eps")
    weight_decay: float = Field(0.0, ge=0, le=1, description=_DECAY)
    tf_eps: bool = Field(
        True,
        description="TensorFlow's: eps inside the root, a mean square that starts at 1, lr inside the momentum; "
        "false for torch's: eps outside, from 0, lr outside",
    )


AnyOptimizer: TypeAlias = SGD | AdamW | RMSprop
Optimizer = Annotated[AnyOptimizer, Field(discriminator="type")]


class Clip(StrictModel):
    """A bound on the gradients of each step: on the norm of all of them together, or on each number."""

    max_norm: float | None = Field(None, gt=0, le=1e6, description="longer gradients are scaled to this L2 norm")
    max_value: float | None = Field(None, gt=0, le=1e6, description="each number is cut to at most this size")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Both bounds, or none."""
        if self.max_norm is None and self.max_value is None:
            yield "max_norm", "missing; expected a number above 0 to 1,000,000, or max_value"
        if self.max_norm is not None and self.max_value is not None:
            yield "max_value", "has no meaning beside max_norm; give one of the two"


class Ema(StrictModel):
    """An exponential moving average of the weights and of the statistics of the norms, to validate and keep.

    `average = decay * average + (1 - decay) * weights` after step t, with
    `decay = min(1 - 1 / horizon, (1 + t) / (10 + t))`: the horizon fits the run, where a bare decay does not.
    """

    horizon: Duration = Field(
        description="how far back the average reaches: 5ep, 2000steps, or a share of the run (0.1); in steps, "
        "decay = 1 - 1 / horizon"
    )
