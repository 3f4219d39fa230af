"""Find how many images fit into memory: the largest batch of a step, and the micro-batches of a larger one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..arithmetic import autocast
from ..failures import is_out_of_memory, release_memory
from ..precisions import Precision
from .norms import local_statistics


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


def _fits(step: Callable[[int], None], batch: int) -> bool:
    try:
        step(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Out here, where the error and its frames no longer hold the tensors of the step.
    release_memory()
    return False


def spare_weights(model: nn.Module, copies: int) -> list[Tensor]:
    """Return tensors that take the memory of so many copies of the weights."""
    return [torch.empty_like(parameter) for _ in range(copies) for parameter in model.parameters()]


def memory_step(
    model: nn.Module,
    shape: tuple[int, int, int],
    device: torch.device,
    *,
    precision: Precision,
    channels_last: bool,
    copies: int,
    teacher: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[int], None]:
    """A step of training on n black images (C, H, W) that takes the memory of a real one, and changes nothing.

    `copies` is how many tensors of the size of the weights optimizer and average will have. Norms that take their
    statistics over all processes do all but the exchange, which the others would have to make at the same time.
    """

    def step(n: int) -> None:
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        spare = spare_weights(model, copies)
        try:
            images = torch.zeros(n, *shape, device=device)
            images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
            model.train()
            with local_statistics():
                with autocast(precision, device):
                    loss = model(images).float().logsumexp(1).mean()
                    if teacher is not None:
                        loss = loss + teacher(images).float().logsumexp(1).mean()
                loss.backward()
        finally:
            del spare
            model.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)

    return step
