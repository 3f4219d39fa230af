"""What the figures depend on: card, driver, versions, and how fast bytes are copied."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch

from .results import Rows, Values
from .setting import Setting

PACKAGES = (
    "effnet_builder",
    "timm",
    "torchvision",
    "triton",
    "numpy",
    "pydantic",
    "pytest",
    "scikit-learn",
    "matplotlib",
)
_QUERY = (
    "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu,"
    "ecc.mode.current"
)
_REPEATS = 10


def environment(setting: Setting, rows: Rows) -> None:
    """Record machine and versions, then the rates of copies."""
    device = torch.device(setting.device)
    rows.measure("machine", partial(_machine, device))
    rows.measure("nvidia-smi", _nvidia_smi)
    rows.measure("packages", lambda: {name: _version(name) for name in PACKAGES})
    size = 2**22 if setting.tiny else 2**30
    rows.measure("copy on the device", lambda: {"gigabytes_per_second": 1e-9 * copy_rate(device, size)})
    if device.type == "cuda":
        for pinned in (True, False):
            kind, count = "pinned" if pinned else "pageable", size // 4
            rows.measure(f"copy from {kind} memory", partial(_upload_rate, device, count, pinned=pinned))
        rows.measure("launch of an empty kernel", partial(_launch_time, device))
    else:
        rows.skip("copies from the host", "there is no GPU")


def copy_rate(device: torch.device, size: int) -> float:
    """Return the bytes/s that a copy on the device reads and writes, the best of several."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device)


def seconds_of(work: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the seconds of one of `count` calls in a row."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / count


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _upload_rate(device: torch.device, size: int, *, pinned: bool) -> Values:
    source = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
    target = torch.empty(size, dtype=torch.uint8, device=device)
    seconds = _best(lambda: target.copy_(source, non_blocking=pinned), device)
    return {"gigabytes_per_second": 1e-9 * size / seconds}


def _launch_time(device: torch.device) -> Values:
    """Return the host's time for a launch: a step of a network has about a thousand."""
    number = torch.zeros((), device=device)
    number.zero_()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(500):
        number.zero_()
    seconds = (time.perf_counter() - start) / 500
    synchronize(device)
    return {"microseconds": 1e6 * seconds}


def _best(work: Callable[[], object], device: torch.device) -> float:
    work()
    return min(seconds_of(work, 3, device) for _ in range(_REPEATS))


def _machine(device: torch.device) -> Values:
    values: Values = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu_cores": len(os.sched_getaffinity(0)),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        values |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gigabytes": 1e-9 * properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return values


def _nvidia_smi() -> Values:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"nvidia_smi": "not found"}
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    first = next(iter(result.stdout.splitlines()), "")
    if result.returncode or not first:
        return {"nvidia_smi": f"exit code {result.returncode}: {(result.stderr or result.stdout)[:200]}"}
    return dict(zip(_QUERY.split(","), first.split(", "), strict=False))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
