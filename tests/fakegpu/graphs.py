"""CUDA graphs in emulate mode: the ops of a capture are kept, and computed again on the same memory by a replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .generators import Draw
from .memory import cpu_view
from .operators import Operator

RECORDING: list[list[Callable[[], None]]] = []
"""The steps of the capture that is under way, if there is one."""
_STEPS: WeakKeyDictionary[torch.cuda.CUDAGraph, list[Callable[[], None]]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Call:
    """An op with its CPU arguments."""

    operator: Operator
    args: list[Any]
    kwargs: dict[str, Any]
    draw: Draw | None

    def __call__(self) -> Any:
        if self.draw is not None:
            return self.draw(self.args, self.kwargs)
        return self.operator.kernel(*self.args, **self.kwargs)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def add(step: Callable[[], None]) -> None:
    """Keep a step of the capture, if the current stream is part of it."""
    if RECORDING and torch.cuda.is_current_stream_capturing():
        RECORDING[-1].append(step)


def record(call: Call, to_results: Callable[[Any], Any]) -> Any:
    """Keep an op for replays. It is computed too, for its results' shapes, but what it wrote to is put back."""
    if not torch.cuda.is_current_stream_capturing():
        return to_results(call())
    written = [tensor for i in call.operator.written if i < len(call.args) for tensor in _tensors(call.args[i])]
    before = [tensor.clone() for tensor in written]
    result = call()
    results = to_results(result)
    # Those that the op wrote to are the op's own arguments; only new ones are copied to where the capture put them.
    arguments = {id(tensor) for tensor in _tensors(call.args)}
    new = [i for i, tensor in enumerate(_tensors(result)) if id(tensor) not in arguments]
    all_results = _tensors(results)
    views = {i: cpu_view(all_results[i]) for i in new}

    def step() -> None:
        values = _tensors(call())
        for i, view in views.items():
            view.copy_(values[i])

    for tensor, value in zip(written, before, strict=True):
        tensor.copy_(value)
    add(step)
    return results


def recorded_copy(target: Tensor, source: Tensor) -> Tensor:
    """Keep a copy between devices for replays; it has been made."""
    if RECORDING:
        to, of = (cpu_view(tensor) if tensor.is_cuda else tensor for tensor in (target, source))
        add(lambda: to.copy_(of) and None)
    return target


def install() -> None:
    """Make `torch.cuda.CUDAGraph` keep and replay the ops of its capture."""
    graph = torch.cuda.CUDAGraph
    begin, end, replay, reset = graph.capture_begin, graph.capture_end, graph.replay, graph.reset

    def capture_begin(self: torch.cuda.CUDAGraph, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        RECORDING.append([])

    def capture_end(self: torch.cuda.CUDAGraph) -> None:
        steps = RECORDING.pop()
        end(self)
        _STEPS[self] = steps

    def replay_steps(self: torch.cuda.CUDAGraph) -> None:
        replay(self)
        for step in _STEPS[self]:
            step()

    def reset_steps(self: torch.cuda.CUDAGraph) -> None:
        _STEPS.pop(self, None)
        reset(self)

    graph.capture_begin = capture_begin  # type: ignore[method-assign]
    graph.capture_end = capture_end  # type: ignore[method-assign]
    graph.replay = replay_steps  # type: ignore[method-assign]
    graph.reset = reset_steps  # type: ignore[method-assign]
