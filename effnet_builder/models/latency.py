"""How long a forward pass takes: measured, with what it depends on."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from ..arch.plan import Plan
from ..config import ConfigError, Mark, Problem
from .network import Network

_WARM_UP_SECONDS = 0.3
_SECONDS = 1.0
_MIN_RUNS, _MAX_RUNS = 9, 1000


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of a forward pass: the median of `runs`, its quartiles, and where they were measured."""

    median: float
    quartiles: tuple[float, float]
    runs: int
    batch: int
    device: str
    threads: int

    def __str__(self) -> str:
        low, high = (1e3 * value for value in self.quartiles)
        place = f"{self.device}, {self.threads} threads" if self.device == "cpu" else self.device
        where = f"{self.runs} runs, batch size {self.batch:,}, float32, {place}"
        return f"{1e3 * self.median:.4g} ms (quartiles {low:.4g} to {high:.4g}; {where})"


def measure_latency(plan: Plan, batch: int = 1, device: str = "cpu") -> Latency:
    """Time the network of a plan in evaluation, in eager mode with random weights, at the plan's resolution.

    After a warm-up of 0.3 s, for one second, but 9 runs at least; each run waits for the device. Raises ConfigError
    where the device is not there or has too little memory.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError([Problem("there is no CUDA device here", mark=Mark(f"device={device}"))])
    try:
        model = Network(plan).to(device).eval()
        images = torch.randn(batch, plan.in_channels, plan.resolution, plan.resolution, device=device)
        with torch.inference_mode():
            _repeat(model, images, _WARM_UP_SECONDS, 2)
            seconds = _repeat(model, images, _SECONDS, _MIN_RUNS)
    except torch.OutOfMemoryError:
        message = f"out of memory at batch size {batch:,} and {plan.resolution} px"
        raise ConfigError([Problem(message, mark=Mark(f"device={device}"))]) from None
    low, median, high = statistics.quantiles(seconds, n=4)
    return Latency(median, (low, high), len(seconds), batch, device, torch.get_num_threads())


def _repeat(model: Network, images: torch.Tensor, seconds: float, least: int) -> list[float]:
    """The seconds of each run, until `seconds` are over."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < least or (time.perf_counter() < end and len(found) < _MAX_RUNS):
        start = time.perf_counter()
        model(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return found
