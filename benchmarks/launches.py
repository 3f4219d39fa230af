"""Count what a training step asks of CUDA: launches, synchronizations, copies and allocations, without a GPU.

python tests/fakegpu --count benchmarks/launches.py [--spec efficientnet-b0]

The engine's own step, by PyTorch's CUDA code over a runtime that computes nothing (tests/fakegpu/README.md). A row is
the third step of a training in bf16, with gradients clipped by their norm and an EMA. Launches depend on the version
of torch; synchronizations and pageable copies are 0 if the host never waits for the device.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from fakegpu import Counts, active, counts, reset

from effnet_builder import load_spec, resolve
from effnet_builder.cli.compose import Material, assemble, new_model
from effnet_builder.train.images import Dataset, in_memory
from effnet_builder.train.numerics import numerics
from effnet_builder.train.recipe import Normalize, load_recipe
from effnet_builder.train.step import Rows, train_step

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"type": "sgd", "lr": 0.1},
    "AdamW": {"type": "adamw", "lr": 0.001},
    "RMSprop": {"type": "rmsprop", "lr": 0.001},
    "Muon": {"type": "muon", "lr": 0.02, "aux": {"type": "adamw", "lr": 0.001}},
}
RECIPES = ("cifar10-fast7", "imagenet-b0")
NORMALIZE = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
BATCH = 8


def step_counts(spec: str, recipe: str, optimizer: dict[str, Any], resolution: int = 32) -> Counts:
    """Return the counts of the third step of a recipe's training with an optimizer, on images stored on the device."""
    device = torch.device("cuda", 0)
    changes = {"batch_size": BATCH, "optimizer": optimizer, "precision": "bf16", "clip": {"max_norm": 1.0}}
    chosen = load_recipe(recipe, changes | {"ema": {"horizon": "10steps"}, "normalize": NORMALIZE.model_dump()})
    plan = resolve(load_spec(spec), resolution=resolution, num_classes=10)
    size = resolution + 8
    images = torch.zeros(8 * BATCH, 3, size, size, dtype=torch.uint8).to(device)
    data = in_memory(images, torch.arange(len(images)) % 10)
    material = Material(plan, chosen, Dataset("zeros", tuple("0123456789"), data, data), data, data)
    with numerics(chosen, device):
        state, job = assemble(new_model(plan, chosen, device), material, device)
        stage, rows = job.stage(1), slice(0, BATCH)
        for images, labels, index in job.train.batches(list(torch.arange(3 * BATCH).split(BATCH))):
            reset()
            train_step(state, job, stage, Rows(images, labels, index, rows, BATCH, 1))
            found = counts()
            state.step += 1
    return found


def row(name: str, recipe: str, found: Counts) -> str:
    """A line of the table."""
    copies = [found.copies[kind].calls for kind in ("pinned to device", "device to pinned", "device to device")]
    cells = [
        name,
        recipe,
        found.launches,
        found.synchronizations,
        *copies,
        found.pageable_copies,
        sum(found.allocations),
    ]
    return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="efficientnet-b0")
    options = parser.parse_args()
    if not active():
        parser.error("it counts on the fake GPU: python tests/fakegpu --count benchmarks/launches.py")
    header = ("optimizer", "recipe", "launches", "synchronizations", "pinned to device", "device to pinned",
              "device to device", "pageable", "cudaMalloc")  # fmt: skip
    print(f"torch {torch.__version__}, {options.spec}\n")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for recipe in RECIPES:
        for name, optimizer in OPTIMIZERS.items():
            print(row(name, recipe, step_counts(options.spec, recipe, optimizer)), flush=True)


if __name__ == "__main__":
    main()
