"""What is done to a trained network before and while it is tested: several views of an image, exact norm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Views: TypeAlias = Literal["none", "flip", "flip-shift"]


def tta_views(images: Tensor, kind: Views) -> Iterator[tuple[float, Tensor]]:
    """Views of a batch (N, C, H, W), each with its weight; the weights sum to 1.

    `none`: the images. `flip`: them and their mirror images, 1/2 each. `flip-shift`: both also moved by one pixel, down
    and right, and up and left, with reflected borders; the moved views weigh 1/8 each, the others 1/4 (airbench, Jordan
    2024).
    """
    height, width = images.shape[-2:]
    if kind == "none":
        yield 1.0, images
        return
    places: list[tuple[float, Tensor]] = [(0.5, images)]
    if kind == "flip-shift":
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        corners = [padded[..., start : start + height, start : start + width] for start in (0, 2)]
        places = [(0.25, images), *((0.125, corner) for corner in corners)]
    for weight, view in places:
        yield weight, view
        yield weight, view.flip(-1)


def averaged_logits(model: nn.Module, images: Tensor, kind: Views) -> Tensor:
    """The weighted mean of the logits (N, classes) of all views, in float32 or better.

    Logits, not probabilities, as in airbench: their softmax is the normalized geometric mean of the views'
    probabilities, and what is computed from logits (the loss) stays defined.
    """
    total: Tensor | None = None
    for weight, view in tta_views(images, kind):
        logits: Tensor = model(view)
        part = weight * (logits if logits.dtype == torch.float64 else logits.float())
        total = part if total is None else total + part
    assert total is not None, "every kind has a view"
    return total


@torch.no_grad()
def recompute_norm_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set mean and variance of every batch norm from batches of training images (N, C, H, W), as the model takes them.

    Precise batch norm (Wu & Johnson 2021): with the weights fixed, the mean of the batch means, and the mean of the
    unbiased batch variances, every batch counting the same. Other layers are as in testing: no dropout, no drop-path.
    The model is left in eval mode; an error or interruption leaves its statistics as they were. Without batch norm no
    batch is drawn. Raises ValueError where there are no batches.
    """
    model.eval()
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm) and each.running_mean is not None]
    if not norms:
        return
    with _accumulating(norms):
        drawn = 0
        for batch in batches:
            model(batch)
            drawn += 1
        if drawn == 0:
            raise ValueError("norm statistics need at least one batch")


@contextmanager
def _accumulating(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norms that start anew and average over all they see; an error puts back what they had."""
    before = [(norm.momentum, {name: buffer.clone() for name, buffer in norm.named_buffers()}) for norm in norms]
    done = False
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        yield
        done = True
    finally:
        for norm, (momentum, buffers) in zip(norms, before, strict=True):
            norm.eval()
            norm.momentum = momentum
            # How many batches the norm was trained on is no statistic of these.
            for name in ("num_batches_tracked",) if done else tuple(buffers):
                norm.get_buffer(name).copy_(buffers[name])
