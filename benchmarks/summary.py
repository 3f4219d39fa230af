"""Summaries as whole processes: of B7, beside torchinfo's of torchvision's network; of 100 rows; and the list of all.

python benchmarks/summary.py [--runs 5]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

TORCHINFO = """
import torch, torchinfo, torchvision
with torch.device({device!r}):
    model = torchvision.models.efficientnet_b7()
torchinfo.summary(model, (1, 3, 600, 600), device={device!r})
"""
BUILD_ARCH = [sys.executable, "-c", "from effnet_builder.cli.build import main; main()"]
ROW = "  - {{type: mbconv, repeats: 5, kernel_size: 5, expand_ratio: 4, se_ratio: 0.25, out_channels: {}}}\n"
HUNDRED_ROWS = "name: hundred\nresolution: 224\nstem: {out_channels: 32}\nhead: {out_channels: 1280}\nstages:\n"
HUNDRED_ROWS += "".join(ROW.format(16 + 4 * i) for i in range(100))
COMMANDS = {
    "build-arch efficientnet-b7 --summary": [*BUILD_ARCH, "efficientnet-b7", "--summary"],
    "build-arch --summary, 100 rows, 500 blocks": [*BUILD_ARCH, "hundred.yaml", "--summary"],
    "build-arch --list": [*BUILD_ARCH, "--list"],
    "torchinfo, torchvision B7, meta": [sys.executable, "-c", TORCHINFO.format(device="meta")],
    "torchinfo, torchvision B7, as users call it (cpu)": [sys.executable, "-c", TORCHINFO.format(device="cpu")],
}  # fmt: skip


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    assert status == 0, command
    return seconds, usage.ru_maxrss / (1e6 if platform.system() == "Darwin" else 1e3)


def main() -> None:
    """Warm up once, then run the commands in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    os.chdir(tempfile.mkdtemp())
    Path("hundred.yaml").write_text(HUNDRED_ROWS)
    for i in range(runs + 1):
        for name, command in COMMANDS.items():
            figures = run(command)
            if i:  # the first round warms the disk cache
                found[name].append(figures)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "torchinfo", "pydantic"))
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {packages}; median of {runs} runs in turn\n")
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    ours = next(iter(medians.values()))
    print(f"{'whole process':50}  {'s':>6}  {'MB':>6}  {'times ours':>10}")
    for name, (seconds, memory) in medians.items():
        print(f"{name:50}  {seconds:6.2f}  {memory:6.0f}  {seconds / ours[0]:10.1f}")


if __name__ == "__main__":
    main()
