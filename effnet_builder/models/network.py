"""The network of a plan: `build_model`, and how its weights start."""

from __future__ import annotations

import math
import os

from torch import Tensor, nn

from ..arch.plan import HeadPlan, Plan
from ..arch.resolve import resolve
from ..arch.spec import ArchSpec, Initialization, load_spec
from .blocks import MBConv
from .layers import ConvNormAct


class Head(nn.Module):
    """1x1 convolution, global average pooling, dropout, classifier."""

    def __init__(self, plan: HeadPlan) -> None:
        super().__init__()
        self.conv = ConvNormAct(plan.conv)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(plan.dropout)
        self.classifier = nn.Linear(
            plan.classifier.in_features, plan.classifier.out_features, bias=plan.classifier.bias
        )

    def classify(self, features: Tensor) -> Tensor:
        """(N, C, H, W) after the convolution to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.dropout(self.pool(features).flatten(1)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to logits (N, num_classes)."""
        return self.classify(self.conv(x))


class Network(nn.Module):
    """The module of a plan. Its paths are those of the plan's rows: `stem`, `stages.2.0.depthwise`, `head.conv`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.stem = ConvNormAct(plan.stem)
        self.stages = nn.Sequential(*(nn.Sequential(*map(MBConv, stage.blocks)) for stage in plan.stages))
        self.head = Head(plan.head)
        initialize(self, plan.spec.init)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) images to the feature map that is pooled, (N, C_head, H / reduction, W / reduction)."""
        features: Tensor = self.head.conv(self.stages(self.stem(x)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) images to logits (N, num_classes)."""
        return self.head.classify(self.forward_features(x))


def build_model(
    source: str | os.PathLike[str] | ArchSpec | Plan,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
) -> Network:
    """The `torch.nn.Module` of an archspec's name, a YAML file, a spec or a plan, with new random weights.

    `num_classes` and `in_channels` replace those of the spec. Under `torch.device("meta")` no memory is taken. Raises
    ConfigError for a spec that is not valid.
    """
    if isinstance(source, Plan):
        if num_classes is None and in_channels is None:
            return Network(source)
        source = source.spec
    spec = source if isinstance(source, ArchSpec) else load_spec(source)
    return Network(resolve(spec, num_classes=num_classes, in_channels=in_channels))


def initialize(model: nn.Module, init: Initialization) -> None:
    """Draw new weights, in the order of `model.modules()`: what each choice means, `Initialization` says."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and init.conv != "torch":
            fan_out = module.out_channels * math.prod(module.kernel_size)
            if init.conv == "fan_out_per_group":
                fan_out //= module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0) / math.sqrt(fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and init.linear != "torch":
            bound = 1.0 / math.sqrt(module.out_features)
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)
