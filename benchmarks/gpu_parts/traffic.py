"""Estimate the bytes that a compiled training step reads and writes in bf16, from the plan's rows.

For a convolution with `i` input and `o` output elements an image, torch.compile (2.14) runs these kernels. All elements
are bf16; an `N` is a normalized tensor that it stores in float32, and so counts twice.

    forward    convolution                       read i, write o
               statistics of the norm            read o
               norm, activation                  read o, write o; with a skip: read o more
      or, where squeeze-excite follows:          read o, write N; mean: read N; gate: read N, write o
    backward   no activation: sums of the norm   read gradient, o
                              gradient           read gradient, o, write o
               with activation: norm again       read o, write N
                                sums             read gradient, N, o
                                gradient         read gradient, N, o, write o
               squeeze-excite, gate's gradient   read gradient, N
               a block's output that the next block also adds: a second gradient, read twice
               depthwise: copies to its layout   read and write o and i
               convolution                       read o, i, write i; the first one has no input gradient to write

In units of o: forward 4, or 10 with squeeze-excite, and 1 with a skip; backward 6 or 13, and 3, 2, 2 for the three rows
that follow. In units of i: 3, 2 for the first, and 2 more for depthwise. A weight takes 18 bytes a step: cast from
float32, read in both passes, its gradient written and cast.

Checked at 224 px and batch size 8 against Inductor's own count of its graphs (torch 2.14.1, scheduled for CUDA, not
run): B0 338 MB, and 340 there; V2-S 608 and 615; MobileNetV3-Large 205 and 184, as ReLU's backward pass needs less. So
this counts what Inductor counts: each tensor that a kernel takes, once. cuDNN's two backward kernels of a convolution
both read its gradient, which neither count contains.
"""

from __future__ import annotations

import math
from itertools import pairwise

from effnet_builder.arch.plan import ConvPlan, Plan, SqueezeExcitePlan

_BYTES = 2  # of a bf16 number
_WEIGHT_BYTES = 18  # of a weight in a step: 4 + 2, 2, 2 + 2, 2 + 4


def training_bytes(plan: Plan, batch: int) -> float:
    """Return the bytes an image of a compiled training step in bf16, at the plan's resolution."""
    elements = _conv(plan.stem, first=True)
    blocks = plan.blocks
    for number, block in enumerate(blocks):
        feeds_skip = number + 1 < len(blocks) and blocks[number + 1].skip
        for layer, following in pairwise([*block.layers, None]):
            if isinstance(layer, ConvPlan):
                last = following is None
                elements += _conv(
                    layer,
                    squeezed=isinstance(following, SqueezeExcitePlan),
                    added=last and block.skip,
                    feeds_skip=last and feeds_skip,
                )
    if plan.head.conv is not None:
        elements += _conv(plan.head.conv)
    weights = sum(math.prod(row.weight_shape) for row in plan.rows if hasattr(row, "weight_shape"))
    return _BYTES * elements + _WEIGHT_BYTES * weights / batch


def _conv(
    conv: ConvPlan, *, first: bool = False, squeezed: bool = False, added: bool = False, feeds_skip: bool = False
) -> int:
    """Return the elements that the kernels of a convolution, its norm and its activation read and write."""
    outputs = 4 + 6 * squeezed + added
    outputs += (6 if conv.activation is None else 13) + 3 * squeezed + 2 * feeds_skip
    inputs = 2 if first else 3
    if conv.groups > 1:
        outputs, inputs = outputs + 2, inputs + 2
    return outputs * math.prod(conv.output_shape) + inputs * conv.in_channels * conv.in_resolution**2
