"""Data sources: all images of a data set as uint8 tensors in memory, with labels and class names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import ConfigError, Mark, Problem

Progress = Callable[[Iterable[object], int, str], Iterable[object]]
"""Wraps an iterable of known length and a description, to show how far it is."""

_MODES = {1: "L", 3: "RGB"}
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) as uint8 and labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> ImageSet:
        """The images with these indices."""
        return ImageSet(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> ImageSet:
        """The set on a device."""
        return ImageSet(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A training and a test set with the names of their classes."""

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    ignored: int = 0  # files in the folders that are no images by their names


def load_dataset(source: str, *, channels: int, size: int, progress: Progress) -> Dataset:
    """Read `digits` or `folder:DIR` with this many channels (1 or 3), images no larger than size x size px.

    Raises ConfigError for an unknown source, folders that do not fit, and every image that cannot be read.
    """
    mark = Mark(f"--data {source}")
    if channels not in _MODES:
        raise _refuse(mark, f"images have 1 or 3 channels, the network wants {channels}")
    if source == "digits":
        return _digits(channels)
    kind, colon, folder = source.partition(":")
    if kind != "folder" or not colon or not folder:
        raise _refuse(mark, "expected digits or folder:DIR")
    return _folder(Path(os.path.expanduser(folder)), channels, size, progress, mark)


def split(data: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """The set without, and the set of, a random `fraction` of its images; at least two and one. Raises ConfigError."""
    if len(data) < 3:
        raise _refuse(Mark("--data"), f"{len(data)} training images; expected at least 3, to train and to validate")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held_out = min(max(1, int(fraction * len(data))), len(data) - 2)
    return data.take(order[held_out:]), data.take(order[:held_out])


def _digits(channels: int) -> Dataset:
    """Scikit-learn's copy of the UCI digits: 1,797 images of 8 x 8 px, of which a fixed fifth of each class tests."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy((digits.images * (255 / 16)).round().astype(np.uint8))
    images = pixels.unsqueeze(1).repeat(1, channels, 1, 1)
    everything = ImageSet(images, torch.from_numpy(digits.target.astype(np.int64)))
    train, test = train_test_split(np.arange(len(everything)), test_size=0.2, stratify=digits.target, random_state=0)
    return Dataset(
        "digits",
        tuple(str(digit) for digit in digits.target_names),
        everything.take(torch.from_numpy(train)),
        everything.take(torch.from_numpy(test)),
    )


def _folder(root: Path, channels: int, size: int, progress: Progress, mark: Mark) -> Dataset:
    """`root/train/CLASS/*` and `root/test/CLASS/*`, listed as torchvision's ImageFolder lists them."""
    from torchvision.datasets import ImageFolder

    listings = []
    for part in ("train", "test"):
        try:
            listings.append(ImageFolder(str(root / part)))
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise _refuse(mark, f"expected {root / part}/CLASS/IMAGE files: {reason}") from None
    train, test = listings
    if train.classes != test.classes:
        only = sorted(set(train.classes) ^ set(test.classes))
        raise _refuse(mark, f"train and test differ in their classes: {', '.join(only[:10])}")
    samples = [*train.samples, *test.samples]
    _check_memory(samples, channels, size, mark)
    images = _read_all([path for path, _ in samples], _MODES[channels], size, progress, mark)
    labels = torch.tensor([label for _, label in samples])
    cut = len(train.samples)
    return Dataset(
        root.resolve().name,
        tuple(train.classes),
        ImageSet(images[:cut], labels[:cut]),
        ImageSet(images[cut:], labels[cut:]),
        sum(len(files) for part in ("train", "test") for _, _, files in os.walk(root / part)) - len(samples),
    )


def _read_all(paths: list[str], mode: str, size: int, progress: Progress, mark: Mark) -> Tensor:
    """All images as one uint8 tensor (N, C, S, S): S is `size`, or less where every image is smaller."""

    def read(path: str) -> np.ndarray | Problem:
        try:
            return _read_square(path, mode, size)
        except _UNREADABLE as error:
            return Problem(f"not a readable image: {error}", mark=Mark(path))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(progress(pool.map(read, paths), len(paths), "reading images"))
    problems = [image for image in found if isinstance(image, Problem)]
    if problems:
        raise ConfigError(problems)
    images = [image for image in found if isinstance(image, np.ndarray)]
    side = max(image.shape[0] for image in images)
    stack = np.empty((len(images), side, side, len(mode)), np.uint8)
    for i, image in enumerate(images):
        same = image.shape[0] == side
        stack[i] = (image if same else _resize(Image.fromarray(image), side)).reshape(side, side, -1)
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


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


def _check_memory(samples: list[tuple[str, int]], channels: int, size: int, mark: Mark) -> None:
    """Refuse what would not fit, judged by the first image; the images are held twice while they are stacked."""
    try:
        with Image.open(samples[0][0]) as first:
            side = min(size, *first.size)
    except _UNREADABLE:
        return  # reported with all the others when it is read
    needed = 2 * len(samples) * channels * side**2
    free = free_memory()
    if free is not None and needed > free:
        message = (
            f"{len(samples):,} images of {side} px need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free"
        )
        raise _refuse(mark, message)


def free_memory() -> int | None:
    """Bytes that can be had without swapping, where the system says so (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _refuse(mark: Mark, message: str) -> ConfigError:
    return ConfigError([Problem(message, mark=mark)])
