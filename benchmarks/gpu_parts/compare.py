"""B0 of three libraries, in turn: training and inference in bf16, channels last, compiled on a real GPU."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from step import LIBRARIES, network
from torch import Tensor, nn

from .environment import seconds_of, synchronize
from .results import Rows, Values
from .setting import Setting

MODEL = "efficientnet-b0"
_COMPILE_SECONDS = {"training": 45.0, "inference": 20.0}


def compare(setting: Setting, rows: Rows) -> None:
    """Record images/s of each library, medians of rounds in turn, and the median of the ratios to ours."""
    warnings.filterwarnings("ignore")
    device = torch.device(setting.device)
    sizes = (
        {"training": (32, 2), "inference": (32, 2)}
        if setting.tiny
        else {"training": (224, 256), "inference": (224, 512)}
    )
    warm_up, rounds, calls = (1, 2, 1) if setting.tiny else (3, 7, 10)
    if not setting.real:
        rows.skip("compiled", f"{setting.needs_real}: all networks run eagerly")
    for mode, (size, batch) in sizes.items():
        works: dict[str, Callable[[], object]] = {}
        torch.manual_seed(0)
        images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
        for library in LIBRARIES:
            prepare = partial(_prepare, works, library, mode, images, warm_up, compiled=setting.real)
            title = f"{mode}, {library}, {warm_up} calls to warm up"
            rows.measure(title, prepare, seconds=_COMPILE_SECONDS[mode] if setting.real else 0)
        times: dict[str, list[float]] = {library: [] for library in works}
        rows.measure(f"{mode}, rounds in turn", partial(_take_turns, works, times, rounds, calls, device))
        for library in works:
            case = f"{mode}, {library}, {size} px, batch {batch}"
            rows.measure(case, partial(_figures, times, library, batch, compiled=setting.real))


def _prepare(
    works: dict[str, Callable[[], object]], library: str, mode: str, images: Tensor, warm_up: int, *, compiled: bool
) -> Values:
    """Build a network, and call it until it is compiled; only then it takes part."""
    start = time.perf_counter()
    model = network(library, MODEL).to(images.device, memory_format=torch.channels_last)
    forward: Any = torch.compile(model, dynamic=False) if compiled else model
    work = _training(model, forward, images) if mode == "training" else _inference(model, forward, images)
    for _ in range(warm_up):
        work()
    synchronize(images.device)
    works[library] = work
    return {"first_calls_s": time.perf_counter() - start}


def _take_turns(
    works: dict[str, Callable[[], object]], times: dict[str, list[float]], rounds: int, calls: int, device: torch.device
) -> Values:
    for _ in range(rounds):
        for library, work in works.items():
            times[library].append(seconds_of(work, calls, device))
    return {"rounds": rounds, "calls": calls}


def _figures(times: dict[str, list[float]], library: str, batch: int, *, compiled: bool) -> Values:
    values: Values = {"images_per_second": batch / statistics.median(times[library]), "compiled": compiled}
    if ours := times.get(LIBRARIES[0]):
        values["times_ours"] = statistics.median(one / other for one, other in zip(times[library], ours, strict=True))
    return values


def _training(model: nn.Module, forward: Any, images: Tensor) -> Callable[[], object]:
    """Return one step of forward, backward and SGD."""
    model.train()
    labels = torch.arange(len(images), device=images.device) % 10
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = F.cross_entropy(forward(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _inference(model: nn.Module, forward: Any, images: Tensor) -> Callable[[], object]:
    """Return one forward pass in evaluation."""
    model.eval()

    def step() -> Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
            logits: Tensor = forward(images)
        return logits

    return step
