"""Set how a run computes for as long as it trains: float32 products, deterministic kernels, compiled graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ..arithmetic import deterministic_algorithms, float32_products
from .recipe import Recipe

_SLACK = 8  # torch's own limit: graphs for reasons other than the shape of the images


@contextmanager
def numerics(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Compute as the recipe says inside: precision, `deterministic`, and every step compiled if it asks for that."""
    with (
        float32_products(recipe.precision, device),
        deterministic_algorithms(recipe.deterministic, device),
        _every_shape_compiled(recipe),
    ):
        yield


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compile a network for each shape of its images; what was compiled for networks before it is forgotten.

    torch counts the graphs of all networks of a class together, and runs the ones above its limit eagerly.
    """
    torch._dynamo.reset()
    called: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False)
    return called


def _every_shape_compiled(recipe: Recipe) -> AbstractContextManager[object]:
    """Allow a graph for each size of images and of micro-batches, and raise an error instead of running eagerly."""
    if not recipe.compile:
        return nullcontext()
    import torch._dynamo.config as config

    stages = 1 if recipe.progressive is None else recipe.progressive.stages
    limit = 2 * stages + _SLACK  # micro-batches have at most two sizes
    most = max(limit, config.accumulated_recompile_limit)
    patched: AbstractContextManager[object] = config.patch(
        recompile_limit=limit, accumulated_recompile_limit=most, fail_on_recompile_limit_hit=True
    )
    return patched
