"""Compound scaling and rounding as plain functions: multipliers from α, β, γ, φ, and scaled numbers made whole."""

from __future__ import annotations

import math


def multiplier(explicit: float | None, base: float | None, phi: float) -> float:
    """The explicit multiplier, else `base ** phi` (Tan & Le 2019, equation 3), else 1."""
    if explicit is not None:
        return explicit
    return 1.0 if base is None else base**phi


def compound_growth(alpha: float | None, beta: float | None, gamma: float | None) -> float:
    """`α · β² · γ²`: how often the MACs double for each step of φ, as a factor (equation 3 asks for about 2)."""
    return (alpha or 1.0) * (beta or 1.0) ** 2 * (gamma or 1.0) ** 2


def round_to(value: float, mode: str, divisor: int = 1, limit: float = 0.0, truncate: bool = False) -> int:
    """A scaled number of channels, blocks or pixels as a multiple of `divisor`, and at least one divisor.

    nearest: `int(x + d/2) // d * d`, one divisor more where that is below `limit * x`;
    ceil, floor: the next multiple above, below; none: `x` must already be whole, the divisor plays no part.
    `truncate` drops the fraction of `x` first. Raises ValueError where `none` meets a fraction.

    The rule of EfficientNet is nearest with divisor 8 and limit 0.9 (`round_filters` of the authors' code).
    """
    if truncate:
        value = int(value)
    if mode == "none":
        if not math.isclose(value, round(value), rel_tol=1e-9):  # 100 * 1.1 is 110.00000000000001
            raise ValueError(f"{value:.6g} is not a whole number")
        return round(value)
    if mode == "nearest":
        rounded = int(value + divisor / 2) // divisor * divisor
        if rounded < limit * value:
            rounded += divisor
    elif mode == "ceil":
        rounded = math.ceil(value / divisor) * divisor
    else:
        assert mode == "floor", mode
        rounded = math.floor(value / divisor) * divisor
    return max(divisor, rounded)


def distribute(total: int, repeats: list[int]) -> list[int]:
    """Share a stage's scaled number of blocks among its rows, in proportion and at least one each.

    From the last row to the first, each gets its part of what is left, rounded half to even, so that the first row, the
    one that strides, grows last (timm's `_scale_stage_depth`).
    """
    shares: list[int] = []
    written = sum(repeats)
    for count in reversed(repeats):
        shares.append(max(1, round(count / written * total)))
        written, total = written - count, total - shares[-1]
    return shares[::-1]


def drop_path_rate(rate: float, schedule: str, block: int, blocks: int) -> float:
    """The drop-path rate of block `block` (from 0) of `blocks`.

    constant: `rate`; linear: `rate * i / n`, which never reaches the rate (TensorFlow, Keras, timm, torchvision);
    linear_inclusive: `rate * i / (n - 1)`, which ends on it (mmpretrain).
    """
    if schedule == "constant":
        return rate
    if schedule == "linear":
        return rate * block / blocks
    assert schedule == "linear_inclusive", schedule
    return rate * block / max(1, blocks - 1)
