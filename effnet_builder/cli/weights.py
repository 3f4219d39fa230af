"""Weights through the command line: into a network, out under the names of any layout, held against another library."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path

from ..arch.plan import Plan
from ..config import ConfigError, Mark, Problem
from .console import EXIT_FAILURE, echo, fail
from .outputs import WEIGHTS, check_outputs

# Beyond what the order of additions does to float64.
TOLERANCE = 1e-9


class Layout(str, Enum):
    """Whose names the tensors of a file have."""

    effnet_builder = "effnet_builder"
    torchvision = "torchvision"
    timm = "timm"
    efficientnet_pytorch = "efficientnet_pytorch"


def convert_weights(
    plan: Plan, source: Path | None, source_layout: Layout | None, target: Path | None, layout: Layout
) -> None:
    """Build the network, copy the weights of `source` in, write them to `target`. Raises ConfigError."""
    from ..models.files import load_weights, write_weights
    from ..models.network import Network
    from ..models.weights import export_weights

    mark = Mark(f"--save-weights {target}")
    check_outputs([("--save-weights", target, WEIGHTS)])
    model = Network(plan)
    if source is not None:
        count = load_weights(model, source, None if source_layout is None else source_layout.value)
        echo(f"{count} tensors of {source} fit {plan.name}")
    if target is not None:
        try:
            write_weights(export_weights(model, layout.value), plan, target)
        except OSError as error:
            raise ConfigError([Problem(f"cannot be written: {error.strerror or error}", mark=mark)]) from None
        echo(f"wrote {target}", err=True)


def compare_with(plan: Plan, peer: str) -> None:
    """Print the largest difference from `timm`, `timm:NAME`, `torchvision` or `torchvision:NAME`. Raises ConfigError.

    Without a name it is that of the spec, written as the library writes it. Exits with 1 where the outputs differ.
    """
    from ..models.compare import build_peer, largest_difference

    library, _, name = peer.partition(":")
    mark = Mark(f"--compare-weights {peer}")
    if library not in ("torchvision", "timm"):
        raise ConfigError([Problem("expected timm, torchvision, timm:NAME or torchvision:NAME", mark=mark)])
    name = name or plan.name.removeprefix("timm-").replace("-", "_")
    try:
        theirs = build_peer(library, name, plan)  # type: ignore[arg-type]
        difference = largest_difference(theirs, plan)
    except ConfigError as error:
        raise ConfigError(replace(found, mark=mark) for found in error.problems) from None
    count = len(theirs.state_dict())
    text = (
        f"{library} {name}: {count} tensors copied; outputs differ by {difference:.1e} (relative, float64, 2 random "
        "images of 64 px)"
    )
    if difference > TOLERANCE:
        raise fail(f"{text}: not the same network", EXIT_FAILURE)
    echo(text)
