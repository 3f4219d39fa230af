"""Seconds to the founding notebook's 85.21 % on CIFAR-10, on a CPU: a run of ours beside its network and recipe.

train-arch benchmarks/cifar10_cpu.yaml --recipe benchmarks/cifar10_cpu_recipe.yaml --data folder:DIR --out RUN
python benchmarks/cifar10_cpu.py RUN [--steps 5]

Of our run, the seconds until the validation accuracy is first at 85.21 %, validations included. Of the notebook, the
images/s of its network and optimizer at 224 px, batch 64, with plain torch convolutions in float32, as it was; without
its input, which takes more time still. Extrapolated to its seven epochs of 45,000 images, which ended at 85.21 %.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from effnet_builder import build_model, load_spec
from effnet_builder.models.depthwise import DepthwiseConv2d
from effnet_builder.models.pointwise import PointwiseConv2d

TARGET = 0.8521
EPOCHS, IMAGES, BATCH = 7, 45_000, 64


def notebook_rate(steps: int) -> float:
    """Images/s of the notebook's training step, the median of so many."""
    torch.manual_seed(0)
    model = build_model(load_spec("notebook-b0", {"head.num_classes": 10})).train()
    for layer in model.modules():
        if isinstance(layer, DepthwiseConv2d | PointwiseConv2d):
            layer.__class__ = nn.Conv2d
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(0, 10, (BATCH,))
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return BATCH / statistics.median(seconds[1:])


def seconds_to_target(run: Path) -> tuple[float, int, float] | None:
    """Seconds, epoch and validation accuracy when the run first reached the target."""
    with (run / "metrics.csv").open() as metrics, (run / "times.csv").open() as times:
        passed = 0.0
        for row, timed in zip(csv.DictReader(metrics), csv.DictReader(times), strict=True):
            passed += float(timed["seconds"])
            accuracy = float(row["ema_accuracy"] or row["valid_accuracy"])
            if accuracy >= TARGET:
                return passed, int(row["epoch"]), accuracy
    return None


def main() -> None:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    reached = seconds_to_target(options.run)
    if reached is None:
        raise SystemExit(f"{options.run} did not reach {TARGET:.2%}")
    ours, epoch, accuracy = reached
    rate = notebook_rate(options.steps)
    theirs = EPOCHS * IMAGES / rate
    print(f"ours: {accuracy:.2%} after {ours:,.0f} s, in epoch {epoch}")
    print(f"notebook: {rate:.2f} images/s, so {theirs:,.0f} s for {EPOCHS} epochs of {IMAGES:,} images (extrapolated)")
    print(f"ratio {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
