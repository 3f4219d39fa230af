"""Accuracy and speed on one GPU: the notebook's training, CIFAR-10 in seven epochs, images/s beside timm, torchvision.

python benchmarks/gpu.py --data folder:DIR --out FOLDER [--parts notebook fast7 speed] [--seeds 0 1 2]
python benchmarks/gpu.py --smoke --out FOLDER

notebook  `train-arch notebook-b0 --recipe notebook`: 7 epochs at 224 px
fast7     `train-arch efficientnet-b0 --recipe cifar10-fast7`, once for each seed
speed     B0 at 224 px and B4 at 380 px of the three libraries, training and inference, all compiled, in bf16, channels
          last, rounds in turn; GB/s beside what a copy on the device reaches

The GB/s are an estimate: elements of the plan's activations (outputs of convolutions) times 2 bytes times how often a
compiled network with batch norm touches each. In inference that is 2: written by the convolution, read by the next,
with norm and activation fused between. In training 14. Forward 5: written, read for the statistics, read and written
by norm and activation, read by the next convolution. Backward 9: gradient and output read for the sums of the norm's
gradient, both read again and the gradient written, that gradient read for the input's and for the weight's, the input
read, its gradient written. `--smoke` is every part in small, on whatever device there is; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from step import LIBRARIES, network
from torch import Tensor, nn

from effnet_builder import analyze, load_spec, resolve

PARTS = ("notebook", "fast7", "speed")
TRAIN_ARCH = [sys.executable, "-c", "from effnet_builder.cli.train import main; main()"]
TOUCHES = {"training": 14, "inference": 2}
BYTES = 2  # of a bf16 number
Row = dict[str, Any]


@dataclass(frozen=True)
class Speed:
    """A network to time: resolution, images of a training batch and of an inference batch."""

    model: str
    resolution: int
    training: int
    inference: int


SPEEDS = (Speed("efficientnet-b0", 224, 256, 512), Speed("efficientnet-b4", 380, 64, 128))
SMOKE = (Speed("efficientnet-b0", 32, 4, 4),)


def train(options: argparse.Namespace, spec: str, recipe: str, seed: int, changes: list[str]) -> Row:
    """A run of `train-arch`: accuracy of the test images, seconds, images/s of the epochs behind the first."""
    run = options.out / f"{spec}-{recipe}-{seed}"
    command = [
        *TRAIN_ARCH,
        spec,
        "--recipe",
        recipe,
        "--data",
        options.data,
        "--out",
        str(run),
        "--set",
        f"seed={seed}",
    ]
    for change in changes:
        command += ["--set", change]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    result = json.loads((run / "result.json").read_text())
    with (run / "times.csv").open(newline="") as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return {
        "spec": spec,
        "recipe": recipe,
        "seed": seed,
        "changes": changes,
        "test_accuracy": result["test_accuracy"],
        "train_seconds": result["train_seconds"],
        "process_seconds": time.perf_counter() - start,
        "images_per_second": statistics.median(rates[1:] or rates),
    }


def training(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """One step of forward, backward and SGD."""
    model.train()
    forward: Any = torch.compile(model) if images.is_cuda else model
    labels = torch.arange(len(images), device=images.device) % 10
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = F.cross_entropy(forward(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def inference(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """One forward pass in evaluation."""
    model.eval()
    forward: Any = torch.compile(model) if images.is_cuda else model

    def step() -> Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
            logits: Tensor = forward(images)
        return logits

    return step


def seconds(work: Callable[[], object], count: int, device: torch.device) -> float:
    """Of one of `count` calls in a row."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / count


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device, elements: int) -> float:
    """Bytes/s that a copy on the device reads and writes, the best of 20."""
    source = torch.zeros(elements, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * elements / min(seconds(lambda: target.copy_(source), 1, device) for _ in range(20))


def compare(speed: Speed, mode: str, device: torch.device, rounds: int, calls: int) -> list[Row]:
    """Images/s and estimated GB/s of each library, medians of rounds in turn."""
    batch = speed.training if mode == "training" else speed.inference
    torch.manual_seed(0)
    images = torch.randn(batch, 3, speed.resolution, speed.resolution, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    build = training if mode == "training" else inference
    works = {}
    for library in LIBRARIES:
        model = network(library, speed.model).to(device, memory_format=torch.channels_last)
        works[library] = build(model, images)
        for _ in range(3):
            works[library]()
    found = [{name: seconds(work, calls, device) for name, work in works.items()} for _ in range(rounds)]
    plan = resolve(load_spec(speed.model), resolution=speed.resolution)
    touched = analyze(plan).total.activations * BYTES * TOUCHES[mode]
    ours = LIBRARIES[0]
    return [
        {
            "model": speed.model,
            "mode": mode,
            "library": library,
            "resolution": speed.resolution,
            "batch": batch,
            "images_per_second": batch / statistics.median(times[library] for times in found),
            "times_ours": statistics.median(times[library] / times[ours] for times in found),
            "gigabytes_per_second": 1e-9 * touched * batch / statistics.median(times[library] for times in found),
        }
        for library in LIBRARIES
    ]


def environment(device: torch.device, smoke: bool) -> Row:
    """What the figures depend on, with the bandwidth to compare them with."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "copy_gigabytes_per_second": 1e-9 * copy_bandwidth(device, 2**22 if smoke else 2**32),
        **{name: version(name) for name in ("torch", "timm", "torchvision")},
    }


def markdown(found: Row) -> str:
    """The tables."""
    lines = [", ".join(f"{key} {shown(value)}" for key, value in found["environment"].items()), ""]
    for part in PARTS:
        if rows := found.get(part):
            lines += [f"## {part}", "", f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
            lines += [f"| {' | '.join(shown(value) for value in row.values())} |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def shown(value: object) -> str:
    """A number with four digits."""
    return (
        f"{value:.4g}"
        if isinstance(value, float) and value < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def main() -> None:
    """Run the parts; results.json and results.md are written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="fake:64x4", help="as train-arch takes it")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--models", nargs="+", default=[speed.model for speed in SPEEDS], help="those of the part speed"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--set", nargs="*", default=[], help="changes of both recipes, such as precision=bf16 compile=true"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if not options.smoke and options.data.startswith("fake:"):
        parser.error("--data is missing")
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seeds = options.seeds[:1] if options.smoke else options.seeds
    changes = ["epochs=1", *options.set] if options.smoke else options.set
    notebook, small = (
        ("efficientnet-pico", "efficientnet-pico") if options.smoke else ("notebook-b0", "efficientnet-b0")
    )
    found: Row = {"environment": environment(device, options.smoke)}
    for part in options.parts:
        if part == "notebook":
            found[part] = [train(options, notebook, "notebook", 1, changes)]
        elif part == "fast7":
            found[part] = [train(options, small, "cifar10-fast7", seed, changes) for seed in seeds]
        else:
            rounds, calls = (2, 1) if options.smoke else (options.rounds, 10)
            speeds = SMOKE if options.smoke else [speed for speed in SPEEDS if speed.model in options.models]
            found[part] = [row for s in speeds for mode in TOUCHES for row in compare(s, mode, device, rounds, calls)]
        (options.out / "results.json").write_text(json.dumps(found, indent=2) + "\n")
        (options.out / "results.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
