"""Networks of others, and how their tensors are named in ours."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor, nn

from effnet_builder import Plan


def from_torchvision(state: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """A torchvision EfficientNet's state dict under our names."""
    return {
        ours + tail: state[theirs + tail]
        for ours, theirs, tails in _layers(plan)
        for tail in tails
        if theirs + tail in state
    }


def _layers(plan: Plan) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    conv = (".weight", ".bias")
    norm = (".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked")
    places = [("stem", "features.0"), ("head.conv", f"features.{len(plan.stages) + 1}")]
    for s, stage in enumerate(plan.stages):
        for b, block in enumerate(stage.blocks):
            ours, theirs = f"stages.{s}.{b}", f"features.{s + 1}.{b}.block"
            parts = ["depthwise", "squeeze_excite", "projection"]
            if block.expansion is not None:
                parts.insert(0, "expansion")
            for i, part in enumerate(parts):
                if part == "squeeze_excite":
                    yield f"{ours}.{part}.reduce.conv", f"{theirs}.{i}.fc1", conv
                    yield f"{ours}.{part}.expand.conv", f"{theirs}.{i}.fc2", conv
                else:
                    places.append((f"{ours}.{part}", f"{theirs}.{i}"))
    for ours, theirs in places:
        yield f"{ours}.conv", f"{theirs}.0", conv
        yield f"{ours}.norm", f"{theirs}.1", norm
    yield "head.classifier", "classifier.1", conv


class NotebookNet(nn.Module):
    """The founding notebook's network, stated a second time and on its own: from its table to layers, no spec, no plan.

    Tensors are created in the order of the notebook's own code, so that a seed gives its weights.
    """

    TABLE = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )  # fmt: skip

    def __init__(self, version: str, num_classes: int) -> None:
        super().__init__()
        phi = {"b0": 0, "b1": 0.5, "b2": 1, "b3": 2, "b4": 3, "b5": 4, "b6": 5, "b7": 6}[version]
        width, depth = 1.1**phi, 1.2**phi
        channels, head = int(32 * width), ceil(1280 * width)
        self.stem = _conv(3, channels, 3, 2)
        blocks: list[nn.Module] = []
        for ratio, base, repeats, stride, kernel in self.TABLE:
            out = 4 * ceil(int(base * width) / 4)
            for i in range(ceil(repeats * depth)):
                blocks.append(NotebookBlock(channels, out, ratio, stride if i == 0 else 1, kernel))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(channels, head, 1, 1)
        self.linear = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.head(self.blocks(self.stem(x))).mean((2, 3)))
        return logits


class NotebookBlock(nn.Module):
    def __init__(self, channels: int, out: int, ratio: int, stride: int, kernel: int) -> None:
        super().__init__()
        hidden = channels * ratio
        self.skip = stride == 1 and channels == out
        self.expand = _conv(channels, hidden, 3, 1) if ratio > 1 else nn.Identity()
        self.depthwise = _conv(hidden, hidden, kernel, stride, hidden)
        self.squeeze = nn.Conv2d(hidden, int(channels / 4), 1)
        self.excite = nn.Conv2d(int(channels / 4), hidden, 1)
        self.project = nn.Sequential(nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        scale = self.excite(nn.functional.silu(self.squeeze(y.mean((2, 3), keepdim=True))))
        y = self.project(y * scale.sigmoid())
        if self.skip and self.training:  # kept with probability 0.8, for each image
            y = y / 0.8 * (torch.rand(len(y), 1, 1, 1) < 0.8)
        return x + y if self.skip else y


def _conv(channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.SiLU())


def randomize_norms(model: nn.Module) -> None:
    """Norm weights and statistics away from 0 and 1, so that a wrong eps or a swapped norm shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.01, 1.5)
