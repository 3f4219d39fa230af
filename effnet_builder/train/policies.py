"""RandAugment, TrivialAugment Wide and AutoAugment: operations drawn by image, done for all that drew the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from . import color
from .augment_settings import AnyPolicy, AutoAugment, RandAugment, TrivialAugment
from .device import upload
from .draws import Draws
from .geometry import affine
from .policy_tables import AUTO_LEVELS, OPERATIONS, PAIRS, RAND_LEVELS, SIGNED, magnitudes, wide_magnitudes

_GEOMETRY = (1, 2, 3, 4, 5)
_ENHANCE = (6, 7, 8, 9)  # their strength is 1 and the magnitude

_COLOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Brightness": color.brightness,
    "Color": color.saturation,
    "Contrast": color.contrast,
    "Sharpness": color.sharpness,
    "Posterize": color.posterize,
    "Solarize": color.solarize,
    "AutoContrast": lambda x, _: color.autocontrast(x),
    "Equalize": lambda x, _: color.equalize(x),
    "Invert": lambda x, _: color.invert(x),
}


def apply_policy(x: Tensor, policy: AnyPolicy, draws: Draws) -> Tensor:
    """uint8 images (N, C, H, W), each changed by the operations that it drew."""
    for operations, strengths in draw_operations(policy, x.shape[-2:], draws):
        x = apply_operations(x, operations, strengths, policy)
    return x


def draw_operations(policy: AnyPolicy, size: Sequence[int], draws: Draws) -> Iterator[tuple[Tensor, Tensor]]:
    """For one operation after the other, which each image gets and how strong, (N,) int64 and float64 on the CPU."""
    draws, (height, width) = draws.on_cpu(), size
    match policy:
        case RandAugment(num_ops=count, magnitude=level):
            table = magnitudes(RAND_LEVELS, height, width)
            for _ in range(count):
                operations = draws.integers(0, len(OPERATIONS) - 1)
                yield operations, _signed(operations, table[operations, level], draws)
        case TrivialAugment():
            operations, levels = draws.integers(0, len(OPERATIONS) - 1), draws.integers(0, RAND_LEVELS)
            yield operations, _signed(operations, wide_magnitudes()[operations, levels], draws)
        case AutoAugment(policy=name):
            table = magnitudes(AUTO_LEVELS, height, width)
            pair = draws.integers(0, len(PAIRS[name][0]))
            for choice, probability, level in zip(*(part[pair].T for part in PAIRS[name]), strict=True):
                operations = torch.where(draws.uniform() < probability, choice, 0)
                yield operations, _signed(operations, table[choice, level], draws)


def apply_operations(x: Tensor, operations: Tensor, strengths: Tensor, policy: AnyPolicy) -> Tensor:
    """uint8 images (N, C, H, W) after one operation each, with (N,) numbers and strengths on the CPU."""
    order = operations.argsort(stable=True)
    operations, strengths = operations[order], strengths[order]
    moves, enhances = (torch.isin(operations, torch.tensor(kinds)) for kinds in (_GEOMETRY, _ENHANCE))
    matrices = upload(affine_matrices(operations, strengths, x.shape[-2:]).float(), x.device)
    strength = upload((strengths + enhances).float(), x.device)[:, None, None, None]
    rows, changed, start = upload(order, x.device), x.clone(), 0
    for kind, count in enumerate(torch.bincount(operations.where(~moves, _GEOMETRY[0])).tolist()):
        part = slice(start, start := start + count)
        if kind == 0 or count == 0:
            continue
        chosen = x.index_select(0, rows[part])
        if kind in _GEOMETRY:
            chosen = affine(chosen, matrices[part], policy.interpolation, policy.fill)
        else:
            chosen = _COLOR[OPERATIONS[kind]](chosen, strength[part])
        changed.index_copy_(0, rows[part], chosen)
    return changed


def affine_matrices(operations: Tensor, strengths: Tensor, size: Sequence[int]) -> Tensor:
    """Where pixels come from, (N, 2, 3) float64 in px from the centre; the identity for what is not geometry."""
    height, width = size
    matrices = torch.eye(2, 3, dtype=torch.float64).repeat(len(operations), 1, 1)
    shear_x, shear_y, shift_x, shift_y, rotate = (operations == i for i in _GEOMETRY)
    # Shears keep the top left corner where it is, not the centre.
    matrices[shear_x, 0, 1] = strengths[shear_x]
    matrices[shear_x, 0, 2] = strengths[shear_x] * height / 2
    matrices[shear_y, 1, 0] = strengths[shear_y]
    matrices[shear_y, 1, 2] = strengths[shear_y] * width / 2
    matrices[shift_x, 0, 2] = -strengths[shift_x].trunc()
    matrices[shift_y, 1, 2] = -strengths[shift_y].trunc()
    angle = strengths[rotate].deg2rad()
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
    matrices[rotate, :, :2] = turned.view(-1, 2, 2)
    return matrices


def _signed(operations: Tensor, strengths: Tensor, draws: Draws) -> Tensor:
    """Half of those negative that can be; the draw is made for every image."""
    negative = (draws.integers(0, 2) == 1) & SIGNED[operations]
    return torch.where(negative, -strengths, strengths)
