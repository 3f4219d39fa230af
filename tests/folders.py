"""Folders of small images, made by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(root: Path, sizes: tuple[tuple[int, int], ...] = ((12, 12),), mode: str = "RGB") -> Path:
    """Two classes, in train two images of each size and class, in test one; dark cats, bright dogs."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 1)):
        for level, name in ((40, "cat"), (200, "dog")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                for width, height in sizes:
                    shape = (height, width, 3) if mode == "RGB" else (height, width)
                    pixels = generator.integers(level - 30, level + 30, shape).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i}-{width}x{height}.png")
    return root
