"""Which images each step sees: a function of seed and epoch, cut into shares of processes and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from .draws import random_seed


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in so many images; one of all of them where they are fewer than a batch."""
    return max(1, count // batch_size)


def epoch_batches(seed: int, epoch: int, count: int, batch_size: int) -> list[Tensor]:
    """The indices (batch_size,) of each batch of an epoch, in random order.

    All batches are of one size, so that every step weighs the same and compiles once; the images that are left over
    at the end of one epoch are others in the next.
    """
    generator = torch.Generator().manual_seed(random_seed(seed, "order", epoch))
    order = torch.randperm(count, generator=generator)
    steps = steps_per_epoch(count, batch_size)
    return list(order[: steps * min(batch_size, count)].split(min(batch_size, count)))


def shares(count: int, parts: int) -> list[slice]:
    """`count` rows as `parts` runs that differ by one row at most."""
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(first, last) for first, last in pairwise(bounds)]


def micro_batches(rows: slice, parts: int) -> Iterator[slice]:
    """The rows of one process as `parts` runs."""
    for part in shares(rows.stop - rows.start, parts):
        yield slice(rows.start + part.start, rows.start + part.stop)


def smallest_share(batch_size: int, processes: int, accumulate: int) -> int:
    """Images of the smallest micro-batch of a process."""
    return batch_size // processes // accumulate
