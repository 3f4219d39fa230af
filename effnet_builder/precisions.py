"""The arithmetic of a forward pass by name, and the bytes that a number takes in it. Imports no torch."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Precision: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16"]
"""The arithmetic of a training step; weights, their gradients and the optimizer's state are float32 in all.

`tf32` rounds the factors of float32 products to 10 bits of mantissa, on CUDA. `bf16` and `fp16` cast by autocast: the
one has the range of float32 and 7 bits of mantissa, the other 10 bits and a range so small that the loss is scaled.
"""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def kept_bytes(precision: Precision, float32_activations: int, float32_weights: int) -> int:
    """Return the bytes that autograd keeps: activations, and under autocast the 16-bit copies of the weights.

    From the bytes of both in float32. Under autocast activations take half; exactly so with batch norm, while CUDA
    computes group and layer norm in float32, and keeps more.
    """
    if precision in ("fp32", "tf32"):
        return float32_activations
    return (float32_activations + float32_weights) // 2
