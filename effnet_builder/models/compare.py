"""A network held against the one of another library: its weights copied over, the outputs must be the same."""

from __future__ import annotations

import difflib
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn

from ..arch.plan import Plan
from ..config import ConfigError, Problem
from .network import Network
from .weights import import_weights

Library = Literal["torchvision", "timm"]


def build_peer(library: Library, name: str, plan: Plan) -> nn.Module:
    """The other library's network, with the classes of the plan. Raises ConfigError where there is none."""
    options: dict[str, Any] = {"num_classes": plan.num_classes}
    if library == "torchvision":
        names, create = torchvision.models.list_models(), torchvision.models.get_model
    else:
        try:
            import timm
        except ImportError:
            raise ConfigError([Problem("timm is not installed; pip install timm")]) from None
        names, create, options["in_chans"] = timm.list_models(), timm.create_model, plan.in_channels
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; name one, as in {library}:efficientnet_b0"
        raise ConfigError([Problem(f"{library} has no network {name!r}{hint}")])
    peer: nn.Module = create(name, **options)
    return peer


def largest_difference(peer: nn.Module, plan: Plan, size: int = 64, seed: int = 0) -> float:
    """`max |ours - theirs| / max |theirs|` of the outputs in evaluation, in float64, for two random images, `size` px.

    The peer's random weights are copied into a network of the plan; its norms get random weights and statistics first,
    so that a wrong eps or a swapped norm shows. Raises ConfigError where the weights do not fit.
    """
    generator = torch.Generator().manual_seed(seed)
    peer.double().eval()
    for module in peer.modules():
        _randomize_norm(module, generator)
    ours = Network(plan).double().eval()
    import_weights(ours, peer.state_dict())
    images = torch.randn(2, plan.in_channels, size, size, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        expected: Tensor = peer(images)
        difference: Tensor = (ours(images) - expected).abs().max() / expected.abs().max()
    return difference.item()


def _randomize_norm(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
        nn.init.uniform_(module.weight, 0.5, 1.5, generator)
        nn.init.normal_(module.bias, 0.0, 0.2, generator)
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_mean is not None
        assert module.running_var is not None
        nn.init.normal_(module.running_mean, 0.0, 0.2, generator)
        nn.init.uniform_(module.running_var, 0.01, 1.5, generator)
