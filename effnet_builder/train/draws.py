"""Random numbers that follow from the seed and the step alone, however many processes share a batch."""

from __future__ import annotations

import copy
import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from .device import upload


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

    def beta(self, a: float, b: float) -> float:
        """One number of Beta(a, b) for the whole batch."""
        seed = torch.randint(2**62, (), generator=self.generator).item()  # torch's own beta knows no generator
        return float(np.random.default_rng(int(seed)).beta(a, b))

    def on_cpu(self) -> Draws:
        """The same stream, of which numbers stay on the CPU: for what decides how much work the device gets."""
        other = copy.copy(self)  # it shares the generator
        other.device = torch.device("cpu")
        return other

    def _cut(self, drawn: Tensor) -> Tensor:
        return upload(drawn[self.rows], self.device)


def hashed(x: Tensor) -> Tensor:
    """32 mixed bits of each int32, the same on every device (the last step of MurmurHash3, Appleby 2011)."""
    return _folded(_folded(_folded(x, 16).mul_(-0x7A143595), 13).mul_(-0x3D4D51CB), 16)


def _folded(x: Tensor, shift: int) -> Tensor:
    """Xor with its upper bits, shifted down."""
    return (x >> shift).bitwise_and_(2 ** (32 - shift) - 1).bitwise_xor_(x)  # `>>` keeps the sign


def hashed_normal(seeds: Tensor, *shape: int) -> Tensor:
    """Standard normal numbers (N, *shape) that follow from int64 seeds (N,), made where the seeds are.

    For one number a pixel, of which `Draws` would make those of the whole batch, on the CPU, in every process.
    """
    place = torch.arange(math.prod(shape), dtype=torch.int32, device=seeds.device)
    bits = hashed(hashed(place) ^ seeds.to(torch.int32)[:, None])
    uniform = bits.bitwise_and_(0x7FFFFF).float().add_(0.5).div_(2**23)  # never 0 or 1
    torch.special.ndtri(uniform, out=uniform)
    return uniform.view(-1, *shape)
