"""Where a network runs."""

from __future__ import annotations

import torch


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`cpu`, `cuda`, or `auto`: CUDA where there is one. Raises ValueError where the wanted one is missing.

    Of several processes on a machine, each takes the CUDA device of its own number.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cuda":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(f"this is process {local_rank + 1} of this machine, which has {torch.cuda.device_count()}")
    return torch.device("cuda", local_rank)


def to_device(model: torch.nn.Module, device: torch.device, *, channels_last: bool) -> torch.nn.Module:
    """The module where it is to run, in place; `channels_last` is the order of the weights of convolutions."""
    model.to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model
