"""What a training step is, as strict data: precision, optimizers, clipping, a teacher, the average of weights.

Imports no torch.
"""

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
    layer_decay: float | None = Field(
        None, gt=0, lt=1, description="factor of lr from each layer to the one before it; the last has the whole lr"
    )

    def base_lr(self, batch_size: int) -> float:
        """The learning rate for batches of this size (linear scaling, Goyal et al. 2017)."""
        return self.lr if self.lr_batch_size is None else self.lr * batch_size / self.lr_batch_size


class _Elementwise(_Optimizer):
    """What the optimizers of single numbers have."""

    no_decay: NoDecay = Field(("norm", "bias"), description=_NO_DECAY)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """A kind named twice."""
        if len(set(self.no_decay)) < len(self.no_decay):
            yield "no_decay", "names a kind twice"


class SGD(_Elementwise):
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


class AdamW(_Elementwise):
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


class RMSprop(_Elementwise):
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


class Muon(_Optimizer):
    """Momentum made orthogonal for the hidden weight matrices (Jordan et al. 2024), another optimizer for the rest.

    Matrices are the weights of linear layers and of convolutions without groups, as (out, in * kh * kw). The first
    layer with weights, a linear layer that is the last (the classifier), depthwise and grouped convolutions, norms and
    biases go to `aux`: so Jordan advises for convolutional networks (github.com/KellerJordan/Muon, whose numbers the
    defaults are), but that a depthwise convolution, which mixes no channels, is no matrix here.
    """

    type: Literal["muon"] = Field(description=_TYPE)
    momentum: float = Field(0.95, ge=0, lt=1, description="share of the last average of gradients that goes on")
    nesterov: bool = Field(True, description="look ahead along the momentum")
    weight_decay: float = Field(0.01, ge=0, le=1, description="share of a weight that lr = 1 takes away at each step")
    ns_steps: int = Field(5, ge=1, le=20, description="steps of the Newton-Schulz iteration")
    adjust_lr_fn: Literal["original", "match_rms_adamw"] = Field(
        "original",
        description="factor of lr for a matrix (out, in): sqrt(max(1, out / in)), or 0.2 * sqrt(max(out, in)), with "
        "which the lr of AdamW fits",
    )
    aux: Annotated[SGD | AdamW, Field(discriminator="type")] = Field(
        AdamW(type="adamw", lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01),
        description="the optimizer of everything that is no hidden matrix",
    )

    @property
    def no_decay(self) -> tuple[ParameterKind, ...]:
        """None: matrices are of none of these kinds."""
        return ()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """A look ahead along nothing; a decay over layers for the rest alone."""
        if "nesterov" in self.model_fields_set and self.nesterov and self.momentum == 0:
            yield "nesterov", "nesterov needs a momentum above 0"
        if self.aux.layer_decay is not None:
            yield "aux.layer_decay", "is of the whole optimizer; give it beside aux"


AnyOptimizer: TypeAlias = SGD | AdamW | RMSprop | Muon
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


class Distill(StrictModel):
    """A teacher's probabilities as a second target: `(1 - alpha) * loss + alpha * distillation_loss` (Hinton 2015)."""

    alpha: float = Field(0.5, gt=0, le=1, description="share of the teacher's term in the loss; 1 leaves labels out")
    temperature: float = Field(
        4.0,
        gt=0,
        le=1000,
        description="by which the logits of both are divided: a high one tells more of unlikely classes",
    )
