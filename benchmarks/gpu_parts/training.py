"""The engine's own training step, on random images that lie on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from effnet_builder import load_spec, resolve
from effnet_builder.cli.compose import Material, assemble, new_model
from effnet_builder.train.images import Dataset, in_memory
from effnet_builder.train.job import Job
from effnet_builder.train.recipe import Normalize, load_recipe
from effnet_builder.train.state import State
from effnet_builder.train.step import Rows, train_step

NORMALIZE = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CLASSES = 10
_BATCHES = 4
_EPOCHS = 100  # so that the learning rate is that of a long run's start


def random_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Return images uint8 (N, 3, H, W) on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def new_training(
    device: torch.device, spec: str, changes: Mapping[str, object], *, size: int, batch: int
) -> tuple[State, Job]:
    """Put a training together as train-arch does: the recipe cifar10-fast7 with changes, images on the device."""
    plan = resolve(load_spec(spec), resolution=size, num_classes=CLASSES)
    recipe = load_recipe("cifar10-fast7", {"batch_size": batch, "epochs": _EPOCHS, **changes})
    # Dropout is a field of the recipe that train-arch hands on to the spec.
    rates = {"head.dropout": recipe.dropout, "drop_path.rate": recipe.drop_path_rate}
    plan = resolve(plan.spec.vary({path: rate for path, rate in rates.items() if rate is not None}))
    images = random_images(_BATCHES * batch, size).to(device)
    data = in_memory(images, torch.arange(len(images)) % CLASSES)
    dataset = Dataset("random", tuple(str(number) for number in range(CLASSES)), data, data)
    material = Material(plan, recipe.vary({"normalize": NORMALIZE}), dataset, data, data)
    return assemble(new_model(plan, material.recipe, device), material, device)


def steps(state: State, job: Job, count: int) -> Iterator[Tensor]:
    """Train for some steps: the gradient norm of each, still on the device."""
    batch, stage = job.recipe.batch_size, job.stage(1)
    generators = (torch.Generator().manual_seed(state.step + number) for number in range(count))
    indices = [torch.randperm(len(job.train.data), generator=generator)[:batch] for generator in generators]
    for images, labels, index in job.train.batches(indices):
        yield train_step(state, job, stage, Rows(images, labels, index, slice(0, batch), batch, 1))
        state.step += 1
