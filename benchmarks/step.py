"""Training steps on the CPU: our network beside timm's and torchvision's, in the same bare loop.

python benchmarks/step.py [--model efficientnet-b0] [--precision fp32] [--threads 2] [--rounds 9] [--cases 32x128]

A step is forward pass, cross entropy, backward pass and SGD with Nesterov momentum; weights and images are channels
last. `train-arch` is our network in a process that keeps freed memory, as that of `train-arch` does. Each network
lives in a process of its own; in each round the processes take one step in turn. Memory is the largest resident set of
the process at the end, less what it had after its imports and the step of a linear layer.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

LIBRARIES = ("effnet_builder", "timm", "torchvision")
NETWORKS = ("train-arch", *LIBRARIES)
CLASSES = 10
Answer = dict[str, float]


def network(library: str, name: str) -> Any:
    """The library's network of this name, with the dropout and drop-path of our spec."""
    from effnet_builder import build_model, load_spec, resolve

    if library in ("effnet_builder", "train-arch"):
        return build_model(name, num_classes=CLASSES)
    spec = load_spec(name)
    dropout, drop_path = resolve(spec).head.dropout, spec.drop_path.rate
    if library == "timm":
        import timm

        options = {"drop_rate": dropout, "drop_path_rate": drop_path}
        return timm.create_model(name.replace("-", "_"), num_classes=CLASSES, **options)
    import torchvision

    build = getattr(torchvision.models, name.replace("-", "_"))
    return build(num_classes=CLASSES, dropout=dropout, stochastic_depth_prob=drop_path)


def work(library: str, options: argparse.Namespace, resolution: int, batch: int) -> None:
    """The process of one network: a line on stdin asks for a step, its answer is a line of JSON."""
    import timm  # noqa: F401 (all import all, so that the rest of the memory is that of the step)
    import torch
    import torchvision  # noqa: F401

    from effnet_builder.train.allocator import keep_freed_memory

    if library == "train-arch":
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    training_step(torch.nn.Linear(1, CLASSES), torch.zeros(batch, 1), options.precision)()
    imported = peak_memory()
    model = network(library, options.model).to(memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, resolution, resolution).contiguous(memory_format=torch.channels_last)
    step = training_step(model, images, options.precision)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        step()
        seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        print(json.dumps(seconds | {"memory": peak_memory() - imported}), flush=True)


def training_step(model: Any, images: Any, precision: str) -> Callable[[], None]:
    """The loop's body, on one batch."""
    import torch
    import torch.nn.functional as F

    labels = torch.arange(len(images)) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def peak_memory() -> float:
    """The largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if platform.system() == "Darwin" else 1e3)


@contextmanager
def worker(library: str, arguments: list[str], case: str) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for lines."""
    command = [sys.executable, __file__, *arguments, "--work", library, "--cases", case]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate()


def ask(process: subprocess.Popen[str]) -> Answer:
    """One step of a worker."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    answer: Answer = json.loads(process.stdout.readline())
    return answer


def compare(options: argparse.Namespace, case: str) -> None:
    """A table of one resolution and batch size: medians over the rounds, and how much longer the others take."""
    arguments = ["--model", options.model, "--precision", options.precision, "--threads", str(options.threads)]
    with ExitStack() as stack:
        processes = {name: stack.enter_context(worker(name, arguments, case)) for name in NETWORKS}
        # The first two steps make buffers, and warm the caches.
        rounds = [{name: ask(processes[name]) for name in NETWORKS} for _ in range(2 + options.rounds)][2:]
    resolution, batch = (int(number) for number in case.split("x"))
    print(f"{options.model}, {resolution} px, batch {batch}, {options.precision}")
    print(
        f"{'':16}{'ms':>7}{'cpu ms':>8}{'images/s':>10}{'MB':>7}   times train-arch, times effnet_builder, pair by pair"
    )
    for name in NETWORKS:
        wall, cpu = (statistics.median(found[name][key] for found in rounds) for key in ("wall", "cpu"))
        ratios = (
            statistics.median(found[name]["wall"] / found[other]["wall"] for found in rounds) for other in NETWORKS[:2]
        )
        shown = "".join(f"{ratio:10.2f}" for ratio in ratios)
        memory = rounds[-1][name]["memory"]
        print(f"{name:16}{1e3 * wall:7.0f}{1e3 * cpu:8.0f}{batch / wall:10.1f}{memory:7.0f}{shown}", flush=True)
    print()


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet-b0", help="a name that all three libraries have")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", nargs="+", default=["32x128", "224x16"], help="resolution x batch size")
    parser.add_argument("--work", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        resolution, batch = (int(number) for number in options.cases[0].split("x"))
        work(options.work, options, resolution, batch)
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "torchvision"))
    print(f"{packages}; {options.threads} threads, medians of {options.rounds} rounds in turn\n")
    for case in options.cases:
        compare(options, case)


if __name__ == "__main__":
    main()
