"""Bounded reading of idx files, the format of MNIST: the header is checked against the file before it is believed."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..files import open_regular

_UINT8 = 8


def idx_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    """Read the sizes in the header of a file of bytes. Raises ValueError and OSError if the file is not as long."""
    with open_regular(path) as file:
        return _shape(file, path.name, dimensions)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read a file of bytes with so many dimensions, as uint8. Raises ValueError and OSError."""
    with open_regular(path) as file:
        shape = _shape(file, path.name, dimensions)
        values = np.fromfile(file, np.uint8, math.prod(shape))
        if len(values) != math.prod(shape):
            raise ValueError(f"{path.name} ends too early")
    return torch.from_numpy(values.reshape(shape))


def _shape(file: IO[bytes], name: str, dimensions: int) -> tuple[int, ...]:
    start, size = 4 + 4 * dimensions, os.fstat(file.fileno()).st_size
    header = file.read(start)
    if len(header) < start or header[:4] != bytes([0, 0, _UINT8, dimensions]):
        raise ValueError(f"{name} is not an idx file of bytes with {dimensions} dimension{'s'[: dimensions - 1]}")
    shape = tuple(int.from_bytes(header[place : place + 4], "big") for place in range(4, start, 4))
    if 0 in shape:
        raise ValueError(f"{name} is empty: {' x '.join(map(str, shape))}")
    if size != start + math.prod(shape):
        raise ValueError(f"{name} has {size:,} bytes; its header says {start + math.prod(shape):,}")
    return shape
