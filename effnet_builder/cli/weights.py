"""Weights through the command line: a file into a network, and out again under the names of any layout."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..arch.plan import Plan
from ..config import ConfigError, Mark, Problem
from .console import echo

if TYPE_CHECKING:
    from ..models.layouts import Layout


def convert_weights(plan: Plan, source: Path | None, target: Path | None, layout: Layout) -> None:
    """Build the network, copy the weights of `source` in, write them to `target`. Raises ConfigError."""
    from ..models.files import read_weights, write_weights
    from ..models.network import Network
    from ..models.weights import export_weights, import_weights

    mark = Mark(f"--save-weights {target}")
    if target is not None and target.suffix != ".safetensors":
        raise ConfigError([Problem("expected a name that ends in .safetensors", mark=mark)])
    if target is not None and os.path.lexists(target):
        raise ConfigError([Problem("exists already, and is not overwritten", mark=mark)])
    model = Network(plan)
    if source is not None:
        state = read_weights(source)
        try:
            import_weights(model, state)
        except ConfigError as error:
            raise ConfigError(replace(found, mark=Mark(str(source))) for found in error.problems) from None
        echo(f"{len(state)} tensors of {source} fit {plan.name}")
    if target is not None:
        try:
            write_weights(export_weights(model, layout), plan, target)
        except OSError as error:
            raise ConfigError([Problem(f"cannot be written: {error.strerror or error}", mark=mark)]) from None
        echo(f"wrote {target}", err=True)
