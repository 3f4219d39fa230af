"""Speed of the engine's own training step, and of a forward pass.

`host_ms` is the median time from one step to the next as the host sees it: of its own work, unless the device is so far
behind that the queue of launches is full. `busy` is the time of all kernels of a step over the time of a step.
`bandwidth` is bytes an image times images/s, as a share of the rate of a copy on this device.
"""

from __future__ import annotations

import gc
import logging
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from effnet_builder import load_spec, resolve
from effnet_builder.models.latency import measure_latency
from effnet_builder.train.job import Job
from effnet_builder.train.numerics import numerics
from effnet_builder.train.state import State

from .environment import copy_rate, synchronize
from .results import Rows, Values
from .setting import Setting
from .traffic import training_bytes
from .training import CLASSES, new_training, steps

_BF16: Mapping[str, object] = {"precision": "bf16"}
_COMPILE_SECONDS = 60.0
_PROFILED_STEPS = 3
_COPY_BYTES = 2**30


@dataclass(frozen=True)
class Case:
    """Changes of the recipe; `benchmark` is cuDNN's; `seconds` is an estimate on an H100."""

    name: str
    changes: Mapping[str, object]
    benchmark: bool = False
    profiled: bool = False
    seconds: float = 4.0

    @property
    def is_compiled(self) -> bool:
        """Return whether torch.compile is part of it."""
        return bool(self.changes.get("compile"))


# By worth: what is last is left out where time is short.
CASES = (
    Case("bf16", _BF16, profiled=True),
    Case("tf32", {"precision": "tf32"}),
    Case("bf16, NCHW", {**_BF16, "channels_last": False}),
    Case("bf16, cudnn.benchmark", _BF16, benchmark=True, seconds=10),
    Case("bf16, rmsprop", {**_BF16, "optimizer": {"type": "rmsprop", "lr": 0.001}}),
    Case("bf16, muon", {**_BF16, "optimizer": {"type": "muon", "lr": 0.02, "aux": {"type": "adamw", "lr": 0.001}}}),
    Case("fp32", {"precision": "fp32"}),
)
COMPILED = Case("bf16, compile", {**_BF16, "compile": True}, profiled=True, seconds=_COMPILE_SECONDS)


@dataclass(frozen=True)
class Size:
    """Images in px, images of a batch, steps to warm up and to time."""

    size: int
    batch: int
    warm_up: int = 4
    steps: int = 12


def speed(setting: Setting, rows: Rows) -> None:
    """Time each case at 224 and 32 px, then forward passes as CUDA graphs, then compiled training."""
    warnings.filterwarnings("ignore")
    device = torch.device(setting.device)
    network = "efficientnet-pico" if setting.tiny else "efficientnet-b0"
    sizes = (Size(32, 4, 1, 2),) if setting.tiny else (Size(224, 256), Size(32, 128))
    measure = partial(_measure, setting, device, network)
    for size in sizes:
        for case in CASES:
            if case.changes["precision"] == "tf32" and device.type != "cuda":
                rows.skip(_title(case, size), "tf32 is arithmetic of CUDA devices")
                continue
            rows.measure(_title(case, size), partial(measure, case, size), seconds=case.seconds)
    if device.type == "cuda":
        for batch in (1,) if setting.tiny else (1, 256):
            name = f"forward pass, {sizes[0].size} px, batch {batch}, bf16, CUDA graph"
            rows.measure(name, partial(_latency, network, sizes[0].size, batch), seconds=3)
    else:
        rows.skip("forward pass, CUDA graph", "there is no GPU")
    for size in sizes:
        if setting.real:
            rows.measure(_title(COMPILED, size), partial(measure, COMPILED, size), seconds=COMPILED.seconds)
        else:
            rows.skip(_title(COMPILED, size), setting.needs_real)
    if not setting.real:
        rows.skip("profile: busy, kernels", setting.needs_real)


def _title(case: Case, size: Size) -> str:
    return f"{case.name}, {size.size} px, batch {size.batch}"


def _measure(setting: Setting, device: torch.device, network: str, case: Case, size: Size) -> Values:
    _free_memory(device)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = case.benchmark
    try:
        state, job = new_training(device, network, case.changes, size=size.size, batch=size.batch)
        with numerics(job.recipe, device), _inductor_bytes(case.is_compiled) as counted:
            start = time.perf_counter()
            list(steps(state, job, size.warm_up))
            synchronize(device)
            first = time.perf_counter() - start
            values = _timed(state, job, size, device)
            if case.profiled and setting.real:
                values |= _profiled(state, job, values["step_ms"])
    finally:
        torch.backends.cudnn.benchmark = before
    if case.is_compiled:
        plan = resolve(load_spec(network), resolution=size.size, num_classes=CLASSES)
        estimate = training_bytes(plan, size.batch)
        measured = counted["bytes"] / size.batch
        used = measured or estimate  # nothing is counted where the graphs come out of Inductor's cache
        values |= {
            "compile_s": first,
            "megabytes_per_image": 1e-6 * measured,
            "estimated_megabytes_per_image": 1e-6 * estimate,
            "bandwidth": used * values["images_per_second"] / copy_rate(device, _COPY_BYTES),
        }
    return values


def _timed(state: State, job: Job, size: Size, device: torch.device) -> Values:
    host: list[float] = []
    start = last = time.perf_counter()
    for _ in steps(state, job, size.steps):
        now = time.perf_counter()
        host.append(now - last)
        last = now
    synchronize(device)
    seconds = (time.perf_counter() - start) / size.steps
    values = {
        "images_per_second": size.batch / seconds,
        "step_ms": 1e3 * seconds,
        "host_ms": 1e3 * statistics.median(host),
    }
    if device.type == "cuda":
        values["peak_gigabytes"] = 1e-9 * torch.cuda.max_memory_allocated(device)
    return values


def _profiled(state: State, job: Job, step_ms: float) -> Values:
    """Return kernels of a step and the share of its time in which one runs; that time was taken without profiler."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        list(steps(state, job, _PROFILED_STEPS))
        torch.cuda.synchronize()
    on_device = torch.autograd.DeviceType.CUDA
    kernels = [each for each in profile.events() if each.device_type == on_device and not each.is_user_annotation]
    if not kernels:
        return {"busy": "the profiler saw no kernel; see the part's output"}
    milliseconds = 1e-3 * sum(each.device_time for each in kernels) / _PROFILED_STEPS
    return {"busy": milliseconds / step_ms, "kernel_ms": milliseconds, "kernels": len(kernels) / _PROFILED_STEPS}


def _latency(network: str, size: int, batch: int) -> Values:
    found = measure_latency(resolve(load_spec(network), resolution=size), batch, "cuda", "bf16")
    low, high = found.quartiles
    milliseconds = {"median_ms": 1e3 * found.median, "low_ms": 1e3 * low, "high_ms": 1e3 * high}
    return {**milliseconds, "images_per_second": batch / found.median}


@contextmanager
def _inductor_bytes(enabled: bool) -> Iterator[dict[str, float]]:
    """Let Inductor count the bytes that the kernels of its graphs read and write; it does so for its log of metrics."""
    counted = {"bytes": 0.0}
    if not enabled:
        yield counted
        return
    from torch._inductor import compile_fx, metrics

    log: Any = compile_fx.inductor_metrics_log
    level, propagate = log.level, log.propagate
    quiet = logging.NullHandler()
    metrics.reset()
    try:
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(quiet)
        yield counted
        counted["bytes"] = float(metrics.num_bytes_accessed)
    finally:
        log.removeHandler(quiet)
        log.setLevel(level)
        log.propagate = propagate


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
