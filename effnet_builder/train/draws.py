"""Random numbers that follow from the seed and the step alone, however many processes share a batch."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def random_seed(seed: int, what: str, *numbers: int) -> int:
    """32 bits for one purpose: hashed, because torch's generator on the CPU looks at the low 32 bits of a seed only."""
    text = " ".join([str(seed), what, *(str(number) for number in numbers)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


class Draws:
    """Random numbers for each image of a batch of `count`, of which a process or micro-batch takes its `rows`.

    All draws are made for the whole batch, on the CPU, and then cut: so an image gets the same ones on any device and
    however the batch is shared out.
    """

    def __init__(self, seed: int, count: int, rows: slice = slice(None), device: torch.device | None = None) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.count = count
        self.rows = rows
        self.device = device or torch.device("cpu")

    def uniform(self, *shape: int) -> Tensor:
        """From 0 (inclusive) to 1 (exclusive), as (rows, *shape) on the device."""
        return self._cut(torch.rand(self.count, *shape, generator=self.generator))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from `low` (inclusive) to `high` (exclusive), as (rows, *shape) on the device."""
        return self._cut(torch.randint(low, high, (self.count, *shape), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, as (rows, *shape) on the device."""
        return self._cut(torch.randn(self.count, *shape, generator=self.generator))

    def one(self) -> float:
        """One number from 0 (inclusive) to 1 (exclusive) for the whole batch."""
        return torch.rand((), generator=self.generator).item()

    def _cut(self, drawn: Tensor) -> Tensor:
        mine = drawn[self.rows]
        if self.device.type == "cuda":
            return mine.pin_memory().to(self.device, non_blocking=True)  # a plain copy would wait for the device
        return mine
