"""Measure how long a forward pass takes on a CPU or a CUDA device, and say under which conditions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..arch.plan import Plan
from ..arithmetic import autocast, check_precision, float32_products
from ..config import ConfigError, Mark, Problem
from ..failures import is_out_of_memory
from ..precisions import Precision
from .network import Network

_WARM_UP_SECONDS = 0.3
_SECONDS = 1.0
_MIN_RUNS, _MAX_RUNS = 9, 1000


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of a forward pass: the median of `runs`, its quartiles, and under which conditions."""

    median: float
    quartiles: tuple[float, float]
    runs: int
    batch: int
    device: str
    threads: int
    precision: Precision = "fp32"

    def __str__(self) -> str:
        low, high = (1e3 * value for value in self.quartiles)
        place = f"{self.device}, {self.threads} threads" if self.device == "cpu" else f"{self.device}, CUDA graph"
        where = f"{self.runs} runs, batch size {self.batch:,}, {self.precision}, {place}"
        return f"{1e3 * self.median:.4g} ms (quartiles {low:.4g} to {high:.4g}; {where})"


def measure_latency(plan: Plan, batch: int = 1, device: str = "cpu", precision: Precision = "fp32") -> Latency:
    """Time the network of a plan in evaluation, with random weights, at the plan's resolution.

    After a warm-up of 0.3 s, for one second, but 9 runs at least. On a CPU the network runs eagerly, in NCHW. On CUDA
    it is captured as a CUDA graph, channels last, and each replay is timed by events of the device: the time of the
    kernels, not that of the host that launches them. Raises ConfigError if the device is not there, has no such
    arithmetic, or too little memory.
    """
    mark = Mark(f"device={device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError([Problem("there is no CUDA device here", mark=mark)])
    place = torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")
    try:
        check_precision(precision, place)
    except ValueError as error:
        raise ConfigError([Problem(f"{error}", mark=Mark(f"precision={precision}"))]) from None
    try:
        with torch.no_grad(), float32_products(precision, place):
            seconds = (_on_cuda if device == "cuda" else _on_cpu)(plan, batch, precision, place)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"out of memory at batch size {batch:,} and {plan.resolution} px"
        raise ConfigError([Problem(message, mark=mark)]) from None
    low, median, high = statistics.quantiles(seconds, n=4)
    return Latency(median, (low, high), len(seconds), batch, device, torch.get_num_threads(), precision)


def _on_cpu(plan: Plan, batch: int, precision: Precision, device: torch.device) -> list[float]:
    model, images = Network(plan).eval(), _images(plan, batch)

    def run() -> float:
        start = time.perf_counter()
        model(images)
        return time.perf_counter() - start

    with torch.inference_mode(), autocast(precision, device):
        return _repeat(run)


def _on_cuda(plan: Plan, batch: int, precision: Precision, device: torch.device) -> list[float]:
    """Return the seconds of each replay of a CUDA graph, by events before and after it on the device."""
    model = Network(plan).to(device).to(memory_format=torch.channels_last).eval()
    images = _images(plan, batch).to(device).contiguous(memory_format=torch.channels_last)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def run() -> float:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        milliseconds: float = begin.elapsed_time(end)
        return milliseconds / 1e3

    with autocast(precision, device):  # for as long as the graph reads the weights that it has cast
        graph = _captured(lambda: model(images))
        return _repeat(run)


def _captured(work: Callable[[], torch.Tensor]) -> torch.cuda.CUDAGraph:
    """Capture the kernels of some work, after it ran on a stream of its own, as PyTorch asks for."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def _images(plan: Plan, batch: int) -> torch.Tensor:
    return torch.randn(batch, plan.in_channels, plan.resolution, plan.resolution)


def _repeat(run: Callable[[], float]) -> list[float]:
    """Warm up, then return the seconds of each run, until a second is over."""
    for seconds, least in ((_WARM_UP_SECONDS, 2), (_SECONDS, _MIN_RUNS)):
        found: list[float] = []
        end = time.perf_counter() + seconds
        while len(found) < least or (time.perf_counter() < end and len(found) < _MAX_RUNS):
            found.append(run())
    return found
