"""`import effnet_builder.timm_models` makes every archspec a model of timm's, under its own name, with hyphens.

    timm.create_model("efficientnet-b0", features_only=True, out_indices=(1, 2, 3))

timm itself has `efficientnet_b0`, so that the two do not meet. (A name with a slash, `effnet_builder/efficientnet-b0`,
is refused by timm since 1.0.31: it takes it for a path; before, it looked at what follows the slash, the same name.)
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model

from .arch.resolve import resolve
from .arch.spec import load_spec
from .config import shipped
from .models.network import FeatureNetwork, Network

# timm's keywords, and what they set in a spec.
_PATHS = {
    "num_classes": "head.num_classes",
    "in_chans": "in_channels",
    "output_stride": "output_stride",
    "drop_rate": "head.dropout",
    "drop_path_rate": "drop_path.rate",
    "global_pool": "head.pool",
}
# What timm passes to every model; nothing of it has a meaning without pretrained weights.
_OF_PRETRAINED = frozenset({"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"})


def _create(
    name: str, pretrained: bool, features_only: bool, out_indices: tuple[int, ...] | None, **options: Any
) -> Network | FeatureNetwork:
    if pretrained:
        raise ValueError(f"there are no pretrained weights of {name}; see effnet_builder.import_weights")
    options = {key: value for key, value in options.items() if key not in _OF_PRETRAINED}
    if unknown := options.keys() - _PATHS.keys():
        raise TypeError(f"{name}: unknown {', '.join(sorted(unknown))}; there are {', '.join(_PATHS)}")
    plan = resolve(load_spec(name, {_PATHS[key]: value for key, value in options.items()}))
    return FeatureNetwork(plan, out_indices) if features_only else Network(plan)


def _register(name: str) -> None:
    def create(
        pretrained: bool = False,
        features_only: bool = False,
        out_indices: tuple[int, ...] | None = None,
        **options: Any,
    ) -> Network | FeatureNetwork:
        return _create(name, pretrained, features_only, out_indices, **options)

    create.__name__ = create.__qualname__ = name
    register_model(create)


for _name in shipped("archspecs"):
    _register(_name)
