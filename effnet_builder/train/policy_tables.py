"""What policies draw from: the operations, their magnitudes, and AutoAugment's learned pairs."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# Geometry is 1 to 5. RandAugment and TrivialAugment draw among all but the last.
OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert",
)  # fmt: skip
SIGNED = torch.tensor([1 <= i <= 9 for i in range(len(OPERATIONS))])
"""Operations of which a magnitude is as often negative."""

RAND_LEVELS = 31
AUTO_LEVELS = 10


@cache
def magnitudes(levels: int, height: int, width: int) -> Tensor:
    """Of RandAugment (31 levels) and AutoAugment (10) for images of this size, (15, levels) float64 on the CPU."""
    return _table(levels, 0.3, (150 / 331 * width, 150 / 331 * height), 30, 0.9, 4)


@cache
def wide_magnitudes() -> Tensor:
    """Of TrivialAugment Wide, (15, 31) float64 on the CPU; it shifts by px, whatever the size."""
    return _table(RAND_LEVELS, 0.99, (32, 32), 135, 0.99, 6)


def _table(levels: int, shear: float, shift: tuple[float, float], degrees: float, enhance: float, bits: int) -> Tensor:
    """From nothing to these extremes; posterize and solarize count downwards, from 8 bits and level 255."""
    ends = [0, shear, shear, *shift, degrees, enhance, enhance, enhance, enhance]
    rising = [torch.linspace(0, end, levels) for end in ends]
    posterize = (8 - torch.arange(levels) / ((levels - 1) / bits)).round()
    solarize = torch.linspace(255, 0, levels)
    return torch.stack([*rising, posterize, solarize, *torch.zeros(3, levels)]).double()


def _pairs(text: str) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of a table as operations, probabilities and levels, (25, 2) each; no level (-) is level 0."""
    rows = [line.split() for line in text.strip().splitlines()]
    cells = [[(row[0], row[1], row[2]), (row[3], row[4], row[5])] for row in rows]
    operations = [[OPERATIONS.index(name) for name, _, _ in pair] for pair in cells]
    probabilities = [[float(share) for _, share, _ in pair] for pair in cells]
    levels = [[0 if level == "-" else int(level) for _, _, level in pair] for pair in cells]
    return torch.tensor(operations), torch.tensor(probabilities), torch.tensor(levels)


# Cubuk et al. 2019, tables of the appendix: each operation with its probability and its level from 0 to 9.
PAIRS = {
    "imagenet": _pairs("""
        Posterize 0.4 8  Rotate 0.6 9
        Solarize 0.6 5  AutoContrast 0.6 -
        Equalize 0.8 -  Equalize 0.6 -
        Posterize 0.6 7  Posterize 0.6 6
        Equalize 0.4 -  Solarize 0.2 4
        Equalize 0.4 -  Rotate 0.8 8
        Solarize 0.6 3  Equalize 0.6 -
        Posterize 0.8 5  Equalize 1.0 -
        Rotate 0.2 3  Solarize 0.6 8
        Equalize 0.6 -  Posterize 0.4 6
        Rotate 0.8 8  Color 0.4 0
        Rotate 0.4 9  Equalize 0.6 -
        Equalize 0.0 -  Equalize 0.8 -
        Invert 0.6 -  Equalize 1.0 -
        Color 0.6 4  Contrast 1.0 8
        Rotate 0.8 8  Color 1.0 2
        Color 0.8 8  Solarize 0.8 7
        Sharpness 0.4 7  Invert 0.6 -
        ShearX 0.6 5  Equalize 1.0 -
        Color 0.4 0  Equalize 0.6 -
        Equalize 0.4 -  Solarize 0.2 4
        Solarize 0.6 5  AutoContrast 0.6 -
        Invert 0.6 -  Equalize 1.0 -
        Color 0.6 4  Contrast 1.0 8
        Equalize 0.8 -  Equalize 0.6 -
    """),
    "cifar10": _pairs("""
        Invert 0.1 -  Contrast 0.2 6
        Rotate 0.7 2  TranslateX 0.3 9
        Sharpness 0.8 1  Sharpness 0.9 3
        ShearY 0.5 8  TranslateY 0.7 9
        AutoContrast 0.5 -  Equalize 0.9 -
        ShearY 0.2 7  Posterize 0.3 7
        Color 0.4 3  Brightness 0.6 7
        Sharpness 0.3 9  Brightness 0.7 9
        Equalize 0.6 -  Equalize 0.5 -
        Contrast 0.6 7  Sharpness 0.6 5
        Color 0.7 7  TranslateX 0.5 8
        Equalize 0.3 -  AutoContrast 0.4 -
        TranslateY 0.4 3  Sharpness 0.2 6
        Brightness 0.9 6  Color 0.2 8
        Solarize 0.5 2  Invert 0.0 -
        Equalize 0.2 -  AutoContrast 0.6 -
        Equalize 0.2 -  Equalize 0.6 -
        Color 0.9 9  Equalize 0.6 -
        AutoContrast 0.8 -  Solarize 0.2 8
        Brightness 0.1 3  Color 0.7 0
        Solarize 0.4 5  AutoContrast 0.9 -
        TranslateY 0.9 9  TranslateY 0.7 9
        AutoContrast 0.9 -  Solarize 0.8 3
        Equalize 0.8 -  Invert 0.1 -
        TranslateY 0.7 9  AutoContrast 0.9 -
    """),
    "svhn": _pairs("""
        ShearX 0.9 4  Invert 0.2 -
        ShearY 0.9 8  Invert 0.7 -
        Equalize 0.6 -  Solarize 0.6 6
        Invert 0.9 -  Equalize 0.6 -
        Equalize 0.6 -  Rotate 0.9 3
        ShearX 0.9 4  AutoContrast 0.8 -
        ShearY 0.9 8  Invert 0.4 -
        ShearY 0.9 5  Solarize 0.2 6
        Invert 0.9 -  AutoContrast 0.8 -
        Equalize 0.6 -  Rotate 0.9 3
        ShearX 0.9 4  Solarize 0.3 3
        ShearY 0.8 8  Invert 0.7 -
        Equalize 0.9 -  TranslateY 0.6 6
        Invert 0.9 -  Equalize 0.6 -
        Contrast 0.3 3  Rotate 0.8 4
        Invert 0.8 -  TranslateY 0.0 2
        ShearY 0.7 6  Solarize 0.4 8
        Invert 0.6 -  Rotate 0.8 4
        ShearY 0.3 7  TranslateX 0.9 3
        ShearX 0.1 6  Invert 0.6 -
        Solarize 0.7 2  TranslateY 0.6 7
        ShearY 0.8 4  Invert 0.8 -
        ShearX 0.7 9  TranslateY 0.8 3
        ShearY 0.8 5  AutoContrast 0.7 -
        ShearX 0.7 2  Invert 0.1 -
    """),
}
