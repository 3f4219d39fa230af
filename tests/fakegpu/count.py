"""Count mode: PyTorch's CUDA code as it is, over kernels that do nothing.

Only products and convolutions are replaced: cuBLAS and cuDNN would look for a GPU. They return empty tensors of the
right shape and layout, and count as one launch, or one for each gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .counters import runtime


def _launch() -> None:
    runtime().fakegpu_launch(torch.cuda.current_stream().cuda_stream)


# --- Convolutions ---


def _format(*tensors: Tensor) -> torch.memory_format:
    """Return channels last if a tensor is, as cuDNN does."""
    last = torch.channels_last
    if any(t.dim() == 4 and t.is_contiguous(memory_format=last) and not t.is_contiguous() for t in tensors):
        return last
    return torch.contiguous_format


def _cudnn_convolution(
    x: Tensor, weight: Tensor, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int], *_: Any
) -> Tensor:
    _launch()
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    size = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[2:], padding, spans, stride, strict=True)]
    return torch.empty(
        (x.shape[0], weight.shape[0], *size), dtype=x.dtype, device=x.device, memory_format=_format(x, weight)
    )


def _cudnn_convolution_transpose(
    x: Tensor, weight: Tensor, padding: Sequence[int], output_padding: Sequence[int], stride: Sequence[int],
    dilation: Sequence[int], groups: int, *_: Any,
) -> Tensor:  # fmt: skip
    _launch()
    rows = zip(x.shape[2:], weight.shape[2:], padding, output_padding, stride, dilation, strict=True)
    size = [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, p, o, s, d in rows]
    return torch.empty(
        (x.shape[0], weight.shape[1] * groups, *size), dtype=x.dtype, device=x.device, memory_format=_format(x, weight)
    )


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    memory_format = _format(grad, x, weight)
    for wanted in mask:
        if wanted:
            _launch()
    return (
        torch.empty_like(x, memory_format=memory_format) if mask[0] else None,
        torch.empty_like(weight, memory_format=memory_format) if mask[1] else None,
        grad.new_empty(grad.shape[1]) if mask[2] else None,
    )


# --- Batch normalization ---


def _cudnn_batch_norm(x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _launch()
    reserve = torch.empty(0, dtype=torch.uint8, device=x.device)
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight), reserve


def _cudnn_batch_norm_backward(x: Tensor, grad: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    _launch()
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


# --- Products ---


def _mm(a: Tensor, b: Tensor) -> Tensor:
    _launch()
    return a.new_empty(a.shape[0], b.shape[1])


def _addmm(c: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor:
    return _mm(a, b)


def _addmm_activation(c: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor:
    return _mm(a, b)


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    _launch()
    return a.new_empty(a.shape[0], a.shape[1], b.shape[2])


def _baddbmm(c: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor:
    return _bmm(a, b)


def _addmv(c: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor:
    _launch()
    return a.new_empty(a.shape[0])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    _launch()
    return a.new_empty(())


def _into(*_: Any, out: Tensor, **__: Any) -> Tensor:
    _launch()
    return out


def _in_place(c: Tensor, *_: Any, **__: Any) -> Tensor:
    _launch()
    return c


_KERNELS = {
    "cudnn_convolution": _cudnn_convolution,
    "cudnn_convolution_transpose": _cudnn_convolution_transpose,
    "convolution_backward": _convolution_backward,
    "cudnn_batch_norm": _cudnn_batch_norm,
    "cudnn_batch_norm_backward": _cudnn_batch_norm_backward,
    "mm": _mm,
    "addmm": _addmm,
    "_addmm_activation": _addmm_activation,
    "bmm": _bmm,
    "baddbmm": _baddbmm,
    "addmv": _addmv,
    "dot": _dot,
    "vdot": _dot,
    **dict.fromkeys(("mm.out", "addmm.out", "bmm.out", "baddbmm.out", "addmv.out"), _into),
    **dict.fromkeys(("addmm_", "baddbmm_", "addmv_"), _in_place),
}
_library: list[torch.library.Library] = []  # the kernels go when it does


def install() -> None:
    """Register the kernels for CUDA, until the process ends."""
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in _KERNELS.items():
        library.impl(name, kernel, "CUDA")
    _library.append(library)
