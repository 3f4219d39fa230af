"""Images in folders, one for each class."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import ConfigError, Mark, Problem
from .images import Dataset, ImageSet, Wanted, with_channels

_TEST_FOLDERS = ("test", "val", "valid", "validation")
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_folder(argument: str, wanted: Wanted) -> Dataset:
    """`DIR/train/CLASS/*` and `DIR/test/CLASS/*`, listed as torchvision's ImageFolder lists them.

    Without a folder `test`, the first of `val`, `valid` and `validation` takes its place.
    """
    from torchvision.datasets import ImageFolder

    root = Path(os.path.expanduser(argument))
    there = [name for name in _TEST_FOLDERS if (root / name).is_dir()] or ["test"]
    parts = ("train", there[0])
    listings = []
    for part in parts:
        try:
            listings.append(ImageFolder(str(root / part)))
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise wanted.refuse(f"expected {root / part}/CLASS/IMAGE files: {reason}") from None
    train, test = listings
    if train.classes != test.classes:
        only = sorted(set(train.classes) ^ set(test.classes))
        raise wanted.refuse(f"train and {parts[1]} differ in their classes: {', '.join(only[:10])}")
    samples = [*train.samples, *test.samples]
    images = _read_all([path for path, _ in samples], wanted)
    labels = torch.tensor([label for _, label in samples])
    cut = len(train.samples)
    return Dataset(
        root.resolve().name,
        tuple(train.classes),
        ImageSet(images[:cut], labels[:cut]),
        ImageSet(images[cut:], labels[cut:]),
        sum(len(files) for part in parts for _, _, files in os.walk(root / part)) - len(samples),
        _notes(root, there),
    )


def _notes(root: Path, there: list[str]) -> tuple[str, ...]:
    taken, *left = there
    notes = [] if taken == "test" else [f"{root / taken} is the test set: there is no {root / 'test'}"]
    return (*notes, *(f"{root / name} is not read" for name in left))


def _read_all(paths: list[str], wanted: Wanted) -> Tensor:
    """All images as one uint8 tensor (N, C, S, S): S is the size, or less where every image is smaller."""
    mode = "L" if wanted.channels == 1 else "RGB"
    _check_memory(paths, mode, wanted)

    def read(path: str) -> np.ndarray | Problem:
        try:
            return _read_square(path, mode, wanted.size)
        except _UNREADABLE as error:
            return Problem(f"not a readable image: {error}", mark=Mark(path))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(wanted.progress(pool.map(read, paths), len(paths), "reading images"))
    problems = [image for image in found if isinstance(image, Problem)]
    if problems:
        raise ConfigError(problems)
    stack = _stack([image for image in found if isinstance(image, np.ndarray)], len(mode))
    return with_channels(torch.from_numpy(stack).permute(0, 3, 1, 2), wanted.channels)


def _stack(images: list[np.ndarray], channels: int) -> np.ndarray:
    """Square images as one array, all as large as the largest."""
    side = max(image.shape[0] for image in images)
    stack = np.empty((len(images), side, side, channels), np.uint8)
    for i, image in enumerate(images):
        same = image.shape[0] == side
        stack[i] = (image if same else _resize(Image.fromarray(image), side)).reshape(side, side, -1)
    return stack


def _read_square(path: str, mode: str, size: int) -> np.ndarray:
    """The central square of an image, shrunk to `size` px where it is larger."""
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise ValueError(f"pixels of more than 8 bits (mode {file.mode})")
        image = file.convert(mode)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image) if side <= size else _resize(image, size)


def _resize(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _check_memory(paths: list[str], mode: str, wanted: Wanted) -> None:
    """Refuse what would not fit, judged by the first image."""
    try:
        with Image.open(paths[0]) as first:
            side = min(wanted.size, *first.size)
    except _UNREADABLE:
        return  # reported with all the others when it is read
    wanted.check_memory(len(paths), side, len(mode))
