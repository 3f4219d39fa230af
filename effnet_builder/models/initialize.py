"""How the weights of a network start: what each choice means, `Initialization` in arch/settings.py says."""

from __future__ import annotations

import math

from torch import nn

from ..arch.settings import Initialization


def initialize(model: nn.Module, init: Initialization) -> None:
    """Draw new weights, in the order of `model.modules()`."""
    for module in model.modules():
        initialize_layer(module, init)


def initialize_layer(module: nn.Module, init: Initialization) -> None:
    """Draw new weights for one convolution or linear layer; any other module stays as torch makes it."""
    if isinstance(module, nn.Conv2d) and init.conv != "torch":
        fan_out = module.out_channels * math.prod(module.kernel_size)
        if init.conv == "fan_out_per_group":
            fan_out //= module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0) / math.sqrt(fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear) and init.linear != "torch":
        if init.linear == "normal":
            nn.init.normal_(module.weight, 0.0, 0.01)
        else:
            bound = math.sqrt(3.0 if init.linear == "fan_out" else 1.0) / math.sqrt(module.out_features)
            nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)
