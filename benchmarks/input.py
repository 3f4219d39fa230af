"""The input of the founding notebook, 224 px from CIFAR-10, by its DataLoader and by our input path, on one CPU.

python benchmarks/input.py --data DIR [--rounds 7] [--batches 10] [--threads 2] [--workers 0]

DIR has train/CLASS/*.jpg, as torchvision's ImageFolder reads it. The notebook's side is its own code: Resize(224),
RandomHorizontalFlip, RandomCrop(224, padding=4), ToTensor, Normalize, batches of 64 in a random order, no worker
processes; once with the images decoded in memory, as torchvision.datasets.CIFAR10 has them, once from the JPEG files.
Ours is the loader and input path of `train-arch` with the recipe `notebook`. Rounds in turn; a round is the same number
of batches for each. The decoding that ours does once is measured apart.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from effnet_builder.train.augment import InputPath
from effnet_builder.train.data import ImageSet, load_dataset
from effnet_builder.train.draws import Draws, random_seed
from effnet_builder.train.loading import Loader
from effnet_builder.train.recipe import Recipe, load_recipe

RESOLUTION = 224
Batches = Iterator[tuple[Tensor, ...]]
Source = Callable[[], Batches]


class InMemory(Dataset[tuple[Tensor, int]]):
    """As torchvision.datasets.CIFAR10: arrays in memory, a PIL image of one at each access."""

    def __init__(self, folder: ImageFolder) -> None:
        self.images = [np.asarray(folder.loader(path)) for path, _ in folder.samples]
        self.labels, self.transform = folder.targets, folder.transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def notebook_transform(recipe: Recipe) -> transforms.Compose:
    """The notebook's training transform."""
    assert recipe.normalize is not None
    return transforms.Compose(
        [
            transforms.Resize((RESOLUTION, RESOLUTION)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(RESOLUTION, padding=4),
            transforms.ToTensor(),
            transforms.Normalize(recipe.normalize.mean, recipe.normalize.std),
        ]
    )


def notebook(data: Dataset[tuple[Tensor, int]], recipe: Recipe, workers: int) -> Source:
    """The notebook's training loader."""
    sampler = SubsetRandomSampler(range(len(data)))  # type: ignore[arg-type]
    loader = DataLoader(data, batch_size=recipe.batch_size, sampler=sampler, num_workers=workers)
    return lambda: iter(loader)


def ours(data: ImageSet, recipe: Recipe) -> Source:
    """The batches of our training, as the engine makes them."""
    assert recipe.normalize is not None
    inputs = InputPath(RESOLUTION, recipe.normalize, recipe.augment, recipe.eval_crop)
    loader = Loader(data, torch.device("cpu"))

    def batches() -> Batches:
        order = torch.randperm(len(data)).split(recipe.batch_size)
        for step, (images, labels, index) in enumerate(loader.batches(order)):
            draws = Draws(random_seed(recipe.seed, "augment", step), len(index))
            yield inputs.train(images, index, 0, draws), labels

    return batches


def rate(source: Source, count: int) -> float:
    """Images/s of so many batches; the first, in which a loader starts, is not counted."""
    batches = source()
    next(batches)
    start, images = time.perf_counter(), 0
    for _ in range(count):
        images += len(next(batches)[0])
    return images / (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=0, help="processes of the notebook's DataLoader; it has none")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = load_recipe("notebook")
    files = ImageFolder(str(options.data / "train"), notebook_transform(recipe))
    start = time.perf_counter()
    data = load_dataset(f"folder:{options.data}", channels=3, size=RESOLUTION, progress=lambda items, *_: items)
    decoding = time.perf_counter() - start
    sources = {
        "ours": ours(data.train, recipe),
        "notebook, images in memory": notebook(InMemory(files), recipe, options.workers),
        "notebook, JPEG files": notebook(files, recipe, options.workers),
    }
    rates = {name: [rate(source, options.batches)][:0] for name, source in sources.items()}  # once to warm up
    for _ in range(options.rounds):
        for name, source in sources.items():
            rates[name].append(rate(source, options.batches))
    print(
        f"torch {version('torch')}, torchvision {version('torchvision')}, pillow {version('pillow')}, Python", end=" "
    )
    print(f"{platform.python_version()}; {options.threads} threads, {options.workers} workers of the DataLoader;")
    print(f"medians of {options.rounds} rounds of {options.batches} batches of {recipe.batch_size}, in turn")
    print(f"decoded once for ours: {len(data.train) + len(data.test):,} images in {decoding:.1f} s\n")
    print(f"{'':28}{'images/s':>10}{'ours / it, pair by pair':>26}")
    for name, found in rates.items():
        ratio = statistics.median(mine / other for mine, other in zip(rates["ours"], found, strict=True))
        print(f"{name:28}{statistics.median(found):10.0f}{ratio:26.2f}")


if __name__ == "__main__":
    main()
