"""Images a second of train-arch in one and in two processes on this CPU, each of one thread.

python benchmarks/scaling.py [--spec efficientnet-pico] [--batch 32] [--rounds 5]

Two processes once share the batch of one (same global batch), and once have as many images each (same batch per
process). In each round the three runs follow one another; a ratio is taken within a round, and the median over rounds
is printed with the smallest and the largest. A run has four epochs, of which the first is left out; its figure is the
median of the others, as its times.csv has it: training alone, with augmentation and the wait for the other process.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = "from effnet_builder.cli.train import main; main()"


def images_per_second(spec: str, processes: int, batch: int, size: int, folder: Path) -> float:
    """Of one run under torchrun."""
    steps = 8
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", f"{processes}", "--no-python"]
    images = [*("--data", f"fake:{batch * steps * 10 // 9 + 1}x10"), *("--resolution", f"{size}")]
    settings = [*("--set", f"batch_size={batch}"), *("--set", "valid_fraction=0.1"), *("--epochs", "4")]
    command = [
        sys.executable, *launcher, sys.executable, "-c", COMMAND, spec, *images, *settings, "--recipe", "small-images",
        "--device", "cpu", "--no-report", "--out", str(folder),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    with (folder / "times.csv").open() as file:
        return statistics.median(float(row["images_per_second"]) for row in list(csv.DictReader(file))[1:])


def main() -> None:
    """The medians, and the ratios of each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="efficientnet-pico")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32, help="images of a step of one process")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    cases = {"one": (1, given.batch), "same global batch": (2, given.batch), "same per process": (2, 2 * given.batch)}
    found: dict[str, list[float]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(given.rounds):
            for name, (processes, batch) in cases.items():
                out = Path(folder) / f"{name.replace(' ', '-')}-{round_}"
                found[name].append(images_per_second(given.spec, processes, batch, given.resolution, out))
    print(f"{given.spec} at {given.resolution} px, {given.batch} images, {given.rounds} rounds, one thread a process")
    for name, (processes, batch) in cases.items():
        ratios = sorted(ours / one for ours, one in zip(found[name], found["one"], strict=True))
        middle = statistics.median(ratios)
        print(
            f"{name}: {processes} processes, batch {batch}: {statistics.median(found[name]):,.1f} images/s, "
            f"{middle:.3f} times one ({ratios[0]:.3f} to {ratios[-1]:.3f}), efficiency {middle / processes:.1%}"
        )


if __name__ == "__main__":
    main()
