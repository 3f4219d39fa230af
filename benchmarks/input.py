"""The input of the founding notebook, 224 px from CIFAR-10, by its DataLoader and by our input path, on one CPU.

python benchmarks/input.py --data DIR [--rounds 7] [--batches 10] [--threads 2] [--workers 0]

DIR has train/CLASS/*.jpg, as torchvision's ImageFolder reads it. The notebook's side is its own code: Resize(224),
RandomHorizontalFlip, RandomCrop(224, padding=4), ToTensor, Normalize, batches of 64 in a random order, no worker
processes; once with the images decoded in memory, as torchvision.datasets.CIFAR10 has them, once from the JPEG files.
Ours is the loader and input path of `train-arch` with the recipe `notebook`. Each has a process of its own; rounds of
the same number of batches in turn. The decoding that ours does once is measured apart.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from effnet_builder.train.allocator import keep_freed_memory
from effnet_builder.train.augment import InputPath
from effnet_builder.train.data import ImageSet, load_dataset
from effnet_builder.train.draws import Draws, random_seed
from effnet_builder.train.loading import Loader
from effnet_builder.train.recipe import Recipe, load_recipe

RESOLUTION = 224
SOURCES = ("ours", "notebook, images in memory", "notebook, JPEG files")
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


def work(name: str, options: argparse.Namespace) -> None:
    """The process of one source: a line on stdin asks for a round, the answer is a line with its images/s."""
    torch.set_num_threads(options.threads)
    recipe = load_recipe("notebook")
    if name == SOURCES[0]:
        keep_freed_memory()  # as train-arch does
        start = time.perf_counter()
        data = load_dataset(f"folder:{options.data}", channels=3, size=RESOLUTION, progress=lambda items, *_: items)
        print(f"{len(data.train) + len(data.test):,} images in {time.perf_counter() - start:.1f} s", flush=True)
        source = ours(data.train, recipe)
    else:
        files = ImageFolder(str(options.data / "train"), notebook_transform(recipe))
        source = notebook(InMemory(files) if name == SOURCES[1] else files, recipe, options.workers)
        print(flush=True)
    for _ in sys.stdin:
        print(rate(source, options.batches), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=0, help="processes of the notebook's DataLoader; it has none")
    parser.add_argument("--work", choices=SOURCES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options)
        return
    command = [sys.executable, *sys.argv, "--work"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(subprocess.Popen([*command, name], **pipes)) for name in SOURCES}
        decoded, *_ = [process.stdout.readline() for process in processes.values()]
        rounds = [{name: ask(processes[name]) for name in SOURCES} for _ in range(1 + options.rounds)][1:]
        for process in processes.values():
            process.stdin.close()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow"))
    print(f"{packages}; {options.threads} threads, {options.workers} workers of the DataLoader;")
    print(f"medians of {options.rounds} rounds of {options.batches} batches, in turn")
    print(f"decoded once for ours: {decoded}")
    print(f"{'':28}{'images/s':>10}{'ours / it, pair by pair':>26}")
    for name in SOURCES:
        ratio = statistics.median(found[SOURCES[0]] / found[name] for found in rounds)
        print(f"{name:28}{statistics.median(found[name] for found in rounds):10.0f}{ratio:26.2f}")


def ask(process: subprocess.Popen[str]) -> float:
    """Images/s of one round of a worker."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


if __name__ == "__main__":
    main()
