"""Which parameters an optimizer treats alike: by what they are, by the depth of their layer; matrices for Muon."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, TypeAlias, cast

from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # of every batch and instance norm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # of every convolution

from ..config import ConfigError, Problem
from .optim_settings import AnyOptimizer, Muon, ParameterKind

Kind = ParameterKind | Literal["weight"]
Weighted: TypeAlias = nn.Linear | _ConvNd

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def parameter_groups(settings: AnyOptimizer, model: nn.Module, batch_size: int) -> list[dict[str, Any]]:
    """What has one learning rate and decays alike, for batches of this many images; frozen parameters are left out.

    Muon's matrices come before the groups of its `aux`, and say `matrices`. The last layer comes first, so that the
    first group has the whole learning rate. In a layer what decays comes before what does not, and in a group the order
    is that of the module. Raises ConfigError where nothing is trainable, layer_decay finds a single layer, or Muon no
    matrix.
    """
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    if not trained:
        raise ConfigError([Problem("nothing to train: every parameter of the network is frozen")])
    scaled = list(_scaled_layers(model, settings.layer_decay))
    if not isinstance(settings, Muon):
        return _groups(settings, parameter_kinds(model), scaled, trained, batch_size)
    hidden = trained.intersection(hidden_matrices(model))
    if not hidden:
        raise ConfigError([Problem("muon has no effect: no hidden weight matrix is trained; use the optimizer of aux")])
    matrices = _groups(settings, {}, scaled, hidden, batch_size)
    others = _groups(settings.aux, parameter_kinds(model), scaled, trained - hidden, batch_size)
    return [group | {"matrices": True} for group in matrices] + [group | {"matrices": False} for group in others]


def parameter_kinds(model: nn.Module) -> dict[nn.Parameter, Kind]:
    """What each parameter is, by the type of the first module that has it, in the order of the module."""
    kinds: dict[nn.Parameter, Kind] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            kinds.setdefault(parameter, _kind(module, parameter))
    return kinds


def layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters layer by layer, in the order of the module.

    A layer is a child of the module; a plain Sequential, ModuleList or ModuleDict is none, its children are. A child
    with nothing but norms belongs to the layer before it, a parameter of the module itself to the first. A module that
    has one child and nothing else (DistributedDataParallel, torch.compile) is that child. So the layers of our networks
    are the stem, each block, and the head.
    """
    kinds, seen = parameter_kinds(model), set[nn.Parameter]()
    while len(children := list(model.children())) == 1 and not any(True for _ in model.parameters(recurse=False)):
        model = children[0]
    found: list[list[nn.Parameter]] = []
    for part in _parts(model):
        own = [parameter for parameter in part.parameters() if parameter not in seen]
        seen.update(own)
        if found and all(kinds[parameter] == "norm" for parameter in own):
            found[-1] += own
        elif own:
            found.append(own)
    loose = [parameter for parameter in kinds if parameter not in seen]
    return [loose + found[0], *found[1:]] if found else [loose]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear layers and ungrouped convolutions, in the order of the module.

    Without those of the first layer that has any, and those of a linear layer that is the last, the classifier.
    """
    weighted: list[Weighted] = [module for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)]
    hidden = weighted[1:-1] if weighted and isinstance(weighted[-1], nn.Linear) else weighted[1:]
    outer = {module.weight for module in weighted if module not in hidden}
    found = [cast(nn.Parameter, module.weight) for module in hidden if _is_matrix(module)]
    return [weight for weight in dict.fromkeys(found) if weight not in outer]


def _groups(
    settings: AnyOptimizer,
    kinds: dict[nn.Parameter, Kind],
    scaled: list[tuple[float, list[nn.Parameter]]],
    among: Collection[nn.Parameter],
    batch_size: int,
) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    for scale, layer in scaled:
        lr = scale * settings.base_lr(batch_size)
        trained = [parameter for parameter in layer if parameter in among]
        spared = [parameter for parameter in trained if kinds.get(parameter) in settings.no_decay]
        decayed = [parameter for parameter in trained if kinds.get(parameter) not in settings.no_decay]
        groups += [{"params": decayed, "lr": lr}, {"params": spared, "lr": lr, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _scaled_layers(model: nn.Module, decay: float | None) -> Iterator[tuple[float, list[nn.Parameter]]]:
    """The layers from the last to the first with their share of lr, `decay ** (layers behind it)`."""
    if decay is None:
        yield 1.0, list(model.parameters())
        return
    found = layers(model)
    if len(found) < 2:
        raise ConfigError([Problem("layer_decay has no effect: the network has a single layer")])
    for behind, layer in enumerate(reversed(found)):
        yield decay**behind, layer


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child) in _CONTAINERS:  # not what derives from them: a block often does
            yield from _parts(child)
        else:
            yield child


def _is_matrix(module: Weighted) -> bool:
    # Each group of a grouped convolution would be a matrix of its own; a transposed one has (in, out, kh, kw).
    return isinstance(module, nn.Linear) or (module.groups == 1 and not isinstance(module, _ConvTransposeNd))


def _kind(module: nn.Module, parameter: nn.Parameter) -> Kind:
    if isinstance(module, _NORMS):
        return "norm"
    if getattr(module, "bias", None) is parameter:
        return "bias"
    if isinstance(module, _ConvNd) and module.groups == module.in_channels > 1:
        return "depthwise"
    return "weight"
