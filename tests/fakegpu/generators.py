"""Random ops: the CPU draws, from a stream that the seed and the offset of the CUDA generator decide."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .operators import Operator

# As many numbers as PyTorch's kernels reserve for each thread, at least.
_OFFSET_PER_OP = 4
_MASK = (1 << 64) - 1
_default_generator = threading.Lock()


def _mix(seed: int, offset: int) -> int:
    """Return 32 bits of seed and offset (the finalizer of SplitMix64); the CPU's generator takes no more."""
    value = (seed + (offset + 1) * 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return (value ^ (value >> 31)) & 0xFFFFFFFF


class Draw:
    """A random op on the CPU, with its seed taken from the CUDA generator each time that it is called."""

    def __init__(self, operator: Operator, generator: torch.Generator) -> None:
        self._operator = operator
        self._generator = generator

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Compute the op; `args` and `kwargs` hold CPU tensors, and no generator."""
        seed = 0  # in a capture, where CUDA's generator cannot be asked, and whose results nobody sees
        if not torch.cuda.is_current_stream_capturing():
            offset = self._generator.get_offset()
            seed = _mix(self._generator.initial_seed(), offset)
            self._generator.set_offset(offset + _OFFSET_PER_OP)
        if self._operator.seeded is not None:
            generator = torch.Generator()
            generator.manual_seed(seed)
            return self._operator.seeded(*args, **kwargs, generator=generator)
        # The op knows only the CPU's default generator, whose own stream must not move.
        with _default_generator:
            state = torch.default_generator.get_state()
            try:
                torch.default_generator.manual_seed(seed)
                return self._operator.kernel(*args, **kwargs)
            finally:
                torch.default_generator.set_state(state)


def generator_of(kwargs: dict[str, Any], device: torch.device) -> torch.Generator:
    """Take the generator out of an op's arguments; the device's default one if there is none."""
    generator = kwargs.pop("generator", None)
    if generator is None:
        torch.cuda.init()
        generator = torch.cuda.default_generators[device.index]
    elif generator.device.type != "cuda":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{generator.device.type}'")
    return generator
