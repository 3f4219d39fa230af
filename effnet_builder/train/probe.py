"""How many images fit: the largest batch that a step has memory for, and the micro-batches that make up another."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import nn

from .optim_settings import Precision
from .precision import autocast

# What a plain RuntimeError says where memory runs out: that of the CPU, that of the libraries' own workspaces.
_SIGNS = (
    "can't allocate memory", "not enough memory", "could not create a primitive", "could not create a memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


def largest_batch(step: Callable[[int], None], batch: int) -> int:
    """The largest number of images up to `batch` for which `step` has the memory; 0 if not even for 2.

    `batch` itself, or else 2, 4 or a multiple of 8, found by bisection: what is more than too much is not tried. Every
    other error of the step is raised. On a CPU, a system that promises more memory than it has may end the process
    instead of refusing.
    """
    if _fits(step, batch):
        return batch
    sizes: list[int] = [size for size in (0, 2, 4, *range(8, batch, 8)) if size < batch]
    low, high = 0, len(sizes)  # sizes[low] fits, sizes[high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(step, sizes[middle]):
            low = middle
        else:
            high = middle
    return sizes[low]


def micro_batches(batch: int, fits: int) -> int:
    """The smallest number of parts, as equal as can be, none of which has more than `fits` images.

    Raises ValueError where a part would be a single image, on which batch norm cannot train.
    """
    parts = -(-batch // fits) if fits > 0 else 0
    if parts == 0 or batch // parts < 2:
        raise ValueError(f"{batch} images cannot be shared out in parts of 2 to {fits}")
    return parts


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on CUDA or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def _fits(step: Callable[[int], None], batch: int) -> bool:
    try:
        step(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Out here, where the error and its frames no longer hold the tensors of the step.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def memory_step(
    model: nn.Module,
    shape: tuple[int, int, int],
    device: torch.device,
    *,
    precision: Precision,
    channels_last: bool,
    copies: int,
) -> Callable[[int], None]:
    """A step of training on n black images (C, H, W) that takes the memory of a real one, and changes nothing.

    `copies` is how many tensors of the size of the weights optimizer and average will have.
    """

    def step(n: int) -> None:
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        spare = [torch.empty_like(parameter) for _ in range(copies) for parameter in model.parameters()]
        try:
            images = torch.zeros(n, *shape, device=device)
            images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
            model.train()
            with autocast(precision, device):
                loss = model(images).float().logsumexp(1).mean()
            loss.backward()
        finally:
            del spare
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)

    return step
