"""effnet_builder: convolutional networks as YAML specs, validated, costed, compiled to torch modules and trained.

    spec = load_spec("efficientnet-b4")     # what a person wrote
    plan = resolve(spec, resolution=320)    # what it means: every number decided
    cost = analyze(plan)                    # what it costs
    model = build_model(plan)               # the torch.nn.Module

Importing this package does not import torch; touching `build_model` or another torch name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .arch.analysis import Analysis, Cost, analyze
from .arch.plan import Plan
from .arch.resolve import resolve
from .arch.spec import ArchSpec, ScalingWarning, load_spec
from .config import ConfigError

if TYPE_CHECKING:
    from .arch.explain import Explanation, explain
    from .arch.fit import Fit, fit_budget
    from .arch.sweep import sweep
    from .arch.variants import Variant
    from .models.network import FeatureNetwork, Network, build_model
    from .models.weights import WeightsWarning, export_weights, import_weights

__all__ = [
    "Analysis",
    "ArchSpec",
    "ConfigError",
    "Cost",
    "Explanation",
    "FeatureNetwork",
    "Fit",
    "Network",
    "Plan",
    "ScalingWarning",
    "Variant",
    "WeightsWarning",
    "analyze",
    "build_model",
    "explain",
    "export_weights",
    "fit_budget",
    "import_weights",
    "load_spec",
    "resolve",
    "sweep",
]

__version__ = "0.1.0"


# Imported when first touched: the models because of torch, the others to keep the start of a command short.
_LAZY = {
    ".arch.explain": ("Explanation", "explain"),
    ".arch.fit": ("Fit", "fit_budget"),
    ".arch.sweep": ("sweep",),
    ".arch.variants": ("Variant",),
    ".models.network": ("FeatureNetwork", "Network", "build_model"),
    ".models.weights": ("WeightsWarning", "export_weights", "import_weights"),
}


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
