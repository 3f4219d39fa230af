"""The network of a plan: the classifier, the feature network, and `build_model`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor, nn

from ..arch.plan import HeadPlan, LinearPlan, Plan
from ..arch.resolve import resolve
from ..arch.spec import ArchSpec, load_spec
from .files import check_claim, load_weights
from .initialize import initialize, initialize_layer
from .layers import ConvNormAct
from .trunk import Trunk


class GlobalPool(nn.Module):
    """Mean, maximum, or half of the sum of both over all pixels."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        mean = nn.functional.adaptive_avg_pool2d(x, 1) if self.pool != "max" else None
        if self.pool == "avg":
            assert mean is not None
            return mean
        maximum = nn.functional.adaptive_max_pool2d(x, 1)
        return maximum if mean is None else 0.5 * (mean + maximum)

    def extra_repr(self) -> str:
        """The kind, for `print(model)`."""
        return self.pool


class Head(nn.Module):
    """Global pooling with a 1x1 convolution before it, behind it or nowhere; dropout, classifier."""

    def __init__(self, plan: HeadPlan) -> None:
        super().__init__()
        self.pool_first = plan.pool_first
        self.conv = ConvNormAct(plan.conv) if plan.conv else None
        self.pool = GlobalPool(plan.pool)
        self.dropout = nn.Dropout(plan.dropout)
        self.classifier = _classifier(plan.classifier)

    def features(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) from the last stage to the map that is pooled, (N, C, H, W)."""
        features: Tensor = x if self.conv is None or self.pool_first else self.conv(x)
        return features

    def classify(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, C, H, W) of `features` to logits (N, num_classes), or to what the classifier gets (N, hidden_size)."""
        x = self.pool(features)
        if self.conv is not None and self.pool_first:
            x = self.conv(x)
        x = self.dropout(x.flatten(1))
        logits: Tensor = x if pre_logits else self.classifier(x)
        return logits


class Network(Trunk):
    """The classifier of a plan. Its paths are those of the plan's rows: `stem`, `stages.2.0.depthwise`, `head.conv`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.head = Head(plan.head)
        initialize(self, plan.spec.init)

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 without one."""
        return self.plan.num_classes

    @property
    def num_features(self) -> int:
        """Channels of `forward_features`."""
        return self.plan.num_features

    @property
    def head_hidden_size(self) -> int:
        """Features that the classifier gets."""
        return self.plan.head.hidden_size

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The feature maps, as timm describes them: `num_chs`, `reduction`, `module`."""
        return _feature_info(self.plan)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) images to the feature map that is pooled, (N, num_features, H / reduction, W / reduction)."""
        *_, x = self.forward_stages(x)
        return self.head.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """`forward_features` to logits (N, num_classes); `pre_logits`: to (N, head_hidden_size)."""
        return self.head.classify(x, pre_logits)

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """(N, C, H, W) images to `(forward_features(x), feature maps)`, or the chosen feature maps alone.

        `indices` counts in `feature_info`, from the end if negative; a number n takes the last n.
        """
        chosen = _chosen(self.plan, range(-indices, 0) if isinstance(indices, int) else indices)
        wanted = [_stage_index(self.plan.features[i].path) for i in chosen]
        outputs = list(self.forward_stages(x))
        maps = [outputs[i] for i in wanted]
        return maps if intermediates_only else (self.head.features(outputs[-1]), maps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) images to logits (N, num_classes); without classes to (N, head_hidden_size)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The linear layer; `nn.Identity` without classes."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier with new random weights, or none (0); `global_pool` (avg, max, avgmax) replaces the pooling.

        Raises ConfigError for what the spec does not allow.
        """
        changes = {"head.num_classes": num_classes} | ({"head.pool": global_pool} if global_pool is not None else {})
        self.plan = resolve(self.plan.spec.vary(changes))
        here = next(self.parameters())
        with torch.device(here.device):
            self.head.pool = GlobalPool(self.plan.head.pool)
            self.head.classifier = _classifier(self.plan.head.classifier).to(here.dtype)
            initialize_layer(self.head.classifier, self.plan.spec.init)
        self.train(self.training)


class FeatureNetwork(Trunk):
    """Stem and stages as a backbone: images to the chosen feature maps, as timm's `features_only=True`."""

    def __init__(self, plan: Plan, out_indices: Iterable[int] | None = None) -> None:
        chosen = _chosen(plan, out_indices)
        taps = [_stage_index(plan.features[i].path) for i in chosen]
        super().__init__(plan, max(taps))
        self.out_indices, self._taps = chosen, taps
        initialize(self, plan.spec.init)

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, reductions and paths of the outputs."""
        return FeatureInfo(_feature_info(self.plan)[i] for i in self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) images to one (N, channels, H / reduction, W / reduction) for each of `out_indices`."""
        outputs = list(self.forward_stages(x))
        return [outputs[i] for i in self._taps]


class FeatureInfo(tuple[dict[str, Any], ...]):
    """What timm's users ask of `feature_info`, for the chosen feature maps in order."""

    __slots__ = ()

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[int]:
        """Image size / map size of each map."""
        return [info["reduction"] for info in self]

    def module_name(self) -> list[str]:
        """The module that gives each map."""
        return [info["module"] for info in self]


Source: TypeAlias = str | os.PathLike[str] | ArchSpec | Plan


@overload
def build_model(
    source: Source,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    output_stride: int | None = None,
    features_only: Literal[False] = False,
) -> Network: ...


@overload
def build_model(
    source: Source,
    *,
    in_channels: int | None = None,
    output_stride: int | None = None,
    features_only: Literal[True],
    out_indices: Iterable[int] | None = None,
) -> FeatureNetwork: ...


def build_model(
    source: Source,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    output_stride: int | None = None,
    features_only: bool = False,
    out_indices: Iterable[int] | None = None,
) -> Network | FeatureNetwork:
    """The `torch.nn.Module` of an archspec's name, a YAML file, a spec or a plan, with new random weights.

    A .safetensors file that effnet_builder wrote gives its network with its weights. `num_classes`, `in_channels` and
    `output_stride` replace those of the spec. `features_only` gives a backbone whose outputs are the feature maps
    `out_indices` of `plan.features`, or all. Under `torch.device("meta")` no memory is taken. Raises ConfigError for a
    spec that is not valid.
    """
    changes = {"num_classes": num_classes, "in_channels": in_channels, "output_stride": output_stride}
    if isinstance(source, Plan) and not any(value is not None for value in changes.values()):
        plan = source
    else:
        source = source.spec if isinstance(source, Plan) else source
        plan = resolve(source if isinstance(source, ArchSpec) else load_spec(source), **changes)
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    weights = path if path.endswith(".safetensors") else None
    if weights is not None:
        check_claim(weights)
    model = FeatureNetwork(plan, out_indices) if features_only else Network(plan)
    if weights is not None:
        load_weights(model, weights)
    return model


def _classifier(plan: LinearPlan | None) -> nn.Module:
    return nn.Identity() if plan is None else nn.Linear(plan.in_features, plan.out_features, bias=plan.bias)


def _feature_info(plan: Plan) -> list[dict[str, Any]]:
    return [{"num_chs": tap.channels, "reduction": tap.reduction, "module": tap.path} for tap in plan.features]


def _chosen(plan: Plan, indices: Iterable[int] | None) -> tuple[int, ...]:
    """Indices of feature maps, counted from the start. Raises ValueError where there is no such map."""
    count = len(plan.features)
    chosen = tuple(range(count) if indices is None else indices)
    if not chosen or any(not -count <= i < count for i in chosen):
        taps = ", ".join(f"{i}: {tap.path} (1/{tap.reduction})" for i, tap in enumerate(plan.features))
        raise ValueError(f"out_indices {list(chosen)}: {plan.name} has the feature maps {taps}")
    return tuple(i % count for i in chosen)


def _stage_index(path: str) -> int:
    """Where a feature map comes among the outputs of `forward_stages`: 0 is the stem."""
    return 0 if path == "stem" else int(path.removeprefix("stages.")) + 1
