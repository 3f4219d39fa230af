"""Depthwise convolutions on the CPU: the weight gradient beside the library's, and training steps of B0 with each.

python benchmarks/depthwise.py [--threads 1] [--runs 5] [--batches 128 32]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from effnet_builder import build_model, load_spec
from effnet_builder.models.depthwise import DepthwiseConv2d, Geometry, weight_gradient, wins

Shape = tuple[int, int, int, int]  # channels, map, kernel, stride
STEPS = {32: 128, 224: 16}


def medians(works: list[Callable[[], object]], runs: int) -> list[float]:
    """Milliseconds of each, run in turns, after one round to warm up."""
    found: list[list[float]] = [[] for _ in works]
    for i in range(runs + 1):
        for times, work in zip(found, works, strict=True):
            start = time.perf_counter()
            work()
            times += [1e3 * (time.perf_counter() - start)] if i else []
    return [statistics.median(times) for times in found]


def network(resolution: int) -> nn.Module:
    """EfficientNet-B0 of 10 classes, all of whose depthwise convolutions are `nn.Conv2d`."""
    torch.manual_seed(0)
    model = build_model(load_spec("efficientnet-b0", {"resolution": resolution, "head.num_classes": 10}))
    for layer in depthwise_layers(model):
        layer.__class__ = nn.Conv2d
    return model


def depthwise_layers(model: nn.Module) -> Iterator[nn.Conv2d]:
    """Those with one group per channel."""
    yield from (m for m in model.modules() if isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels)


def shapes(resolution: int) -> list[Shape]:
    """Every different depthwise convolution of B0."""
    found: list[Shape] = []
    model = network(resolution).eval()
    for layer in depthwise_layers(model):
        layer.register_forward_pre_hook(
            lambda m, inputs: found.append((m.in_channels, inputs[0].shape[2], m.kernel_size[0], m.stride[0]))
        )
    with torch.inference_mode():
        model(torch.zeros(1, 3, resolution, resolution))
    return sorted(set(found), key=lambda shape: -shape[1])


def compare_gradients(shape: Shape, batch: int, runs: int) -> None:
    """A line: the library's weight gradient, ours, and which of them the layer takes."""
    channels, size, kernel, stride = shape
    geometry = Geometry((stride, stride), (kernel // 2, kernel // 2), (1, 1))
    x, weight = torch.randn(batch, channels, size, size), torch.randn(channels, 1, kernel, kernel)
    grad = torch.randn_like(nn.functional.conv2d(x, weight, None, *geometry, groups=channels))

    def theirs() -> Tensor:
        found: Tensor = torch.ops.aten.convolution_backward(
            grad, x, weight, None, *geometry, False, [0, 0], channels, [False, True, False]
        )[1]
        return found

    def ours() -> Tensor:
        return weight_gradient(x, grad, weight, geometry)

    library, own = medians([theirs, ours], runs)
    difference = float((ours() - theirs()).abs().max() / theirs().abs().max())
    taken = "ours" if wins(x, weight, geometry) else "library"
    print(
        f"{batch:5} {channels:5} {size:4} {kernel:3} {stride:3} {library:9.2f} {own:9.2f} {library / own:7.2f}"
        f"  {taken:8}{difference:.0e}",
        flush=True,
    )


def training_step(model: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], None]:
    """Forward, backward and SGD."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def compare_steps(resolution: int, batch: int, runs: int) -> None:
    """A line: the step of B0 with the library's convolutions, and with ours."""
    x, labels = torch.randn(batch, 3, resolution, resolution), torch.randint(10, (batch,))
    plain, own = network(resolution), network(resolution)
    for layer in depthwise_layers(own):
        layer.__class__ = DepthwiseConv2d
    library, ours = medians([training_step(model, x, labels) for model in (plain, own)], runs)
    print(f"step of B0, {resolution} px, batch {batch}: {library:.0f} ms, ours {ours:.0f} ms, {library / ours:.2f}x")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=[128, 32])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads; medians of {options.runs} in milliseconds\n")
    for resolution, batch in STEPS.items():
        compare_steps(resolution, batch, options.runs)
    print("\nbatch chann  map  k   s    library      ours   ratio  taken   difference")
    every = {shape for resolution in (32, 64, 224) for shape in shapes(resolution)}
    for shape in sorted(every, key=lambda shape: (shape[1], shape[2], shape[3], shape[0])):
        for batch in options.batches:
            compare_gradients(shape, batch, options.runs)


if __name__ == "__main__":
    main()
