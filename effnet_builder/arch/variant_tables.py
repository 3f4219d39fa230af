"""Variants and fits as tables for people, as CSV, or as plain data: formatting only."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from ..precisions import Precision
from .fit import Fit
from .quantities import Budget
from .rules import powers_of
from .spec import ArchSpec
from .summary import align, si
from .variants import Variant

_HEADER = ("phi", "depth", "width", "px", "params", "MACs", "activations", "memory")


class MeasuredLatency(Protocol):
    """Seconds of a forward pass: median, quartiles, and how they were measured."""

    @property
    def median(self) -> float:
        """Half of the runs were faster."""

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter was faster, a quarter slower."""

    def __str__(self) -> str: ...


def render_variants(
    variants: Iterable[Variant], batch: int, kind: Literal["table", "json", "csv"], precision: Precision = "fp32"
) -> str:
    """The variants, a line each; memory is that of a training step with `batch` images in a precision."""
    if kind == "json":
        return json.dumps([variant_data(variant, batch, precision) for variant in variants], indent=2)
    if kind == "csv":
        return _csv([variant_data(variant, batch, precision) for variant in variants])
    note = f"MACs and activations of one image; memory of a training step in {precision}, batch size {batch:,}."
    return "\n".join([*align(_HEADER, [_cells(variant, batch, precision) for variant in variants]), "", note])


def variant_data(variant: Variant, batch: int, precision: Precision = "fp32") -> dict[str, object]:
    """A variant as plain data, in elements, multiply-adds, bytes and px."""
    return {
        "phi": variant.phi,
        "depth": variant.depth,
        "width": variant.width,
        "resolution": variant.resolution,
        "params": variant.params,
        "macs": variant.macs,
        "activations": variant.activations,
        "memory": variant.memory(batch, precision),
        "batch": batch,
        "precision": precision,
    }


def fit_data(
    spec: ArchSpec,
    fit: Fit,
    batch: int,
    latencies: Sequence[tuple[Variant, MeasuredLatency]] = (),
    precision: Precision = "fp32",
) -> dict[str, object]:
    """A fit as plain data: the variant at the top, its neighbours and what binds below."""
    return {
        "name": spec.name,
        "phi_interval": list(fit.phi_interval),
        **variant_data(fit.variant, batch, precision),
        "binding": [budget.quantity for budget in fit.binding],
        "below": None if fit.below is None else variant_data(fit.below, batch, precision),
        "above": variant_data(fit.above, batch, precision),
        "latencies": [
            {"phi": variant.phi, "median": found.median, "quartiles": list(found.quartiles), "how": str(found)}
            for variant, found in latencies
        ],
    }


def render_fit(
    spec: ArchSpec,
    rule: str,
    fit: Fit,
    budgets: Sequence[Budget],
    batch: int,
    latencies: Sequence[tuple[Variant, MeasuredLatency]] = (),
    precision: Precision = "fp32",
) -> str:
    """The variant between its neighbours, how much of each budget it takes, and which keeps the next one out."""
    memory = [budget for budget in budgets if budget.quantity == "memory"]
    batch = max([batch, *(budget.batch for budget in memory)])
    precision = memory[0].precision if memory else precision
    powers = ", ".join(f"{name} {value:.4g}" for name, value in powers_of(spec).items())
    places = [("below", fit.below), ("fits", fit.variant), ("above", fit.above)]
    rows = [(place, *_cells(variant, batch, precision)) for place, variant in places if variant is not None]
    lines = [f"{spec.name}, rule {rule} ({powers}), {' and '.join(map(str, budgets))}", ""]
    lines += [*align(("", *_HEADER), rows, left=1), ""]
    for budget in budgets:
        if budget.quantity == "latency":
            lines += _latency_lines(fit, budget, latencies)
        else:
            taken, above = budget.cost(fit.variant), budget.cost(fit.above)
            binds = f"; it binds: the next variant takes {budget.show(above)}" if budget in fit.binding else ""
            share = f"{taken / budget.limit:.2%} of the budget"
            lines.append(f"{budget.quantity}: {budget.show(taken)}, {share}{binds}")
    first, last = fit.phi_interval
    lines.append(f"Every phi from {first:.6f} up to {last:.6f} gives this network.")
    return "\n".join(lines)


def _latency_lines(fit: Fit, budget: Budget, latencies: Sequence[tuple[Variant, MeasuredLatency]]) -> list[str]:
    """What was measured of the variant, and whether its neighbours can be told from it."""

    def of(variant: Variant | None) -> MeasuredLatency | None:
        costs = None if variant is None else (variant.params, variant.macs, variant.resolution)
        return next(
            (found for other, found in latencies if costs == (other.params, other.macs, other.resolution)), None
        )

    found, above = of(fit.variant), of(fit.above)
    if found is None:
        return []
    binds = f"; it binds: the next variant takes {above.median * 1e3:.4g} ms" if above and budget in fit.binding else ""
    lines = [f"latency: {found}, {found.median / budget.limit:.2%} of the budget{binds}"]
    if above is not None and above.quartiles[0] <= found.quartiles[1]:
        lines.append(
            f"The quartiles of this variant and of the next overlap ({found.quartiles[1] * 1e3:.4g} ms and "
            f"{above.quartiles[0] * 1e3:.4g} ms): by this measurement the two cannot be told apart."
        )
    return lines


def _cells(variant: Variant, batch: int, precision: Precision = "fp32") -> tuple[str, ...]:
    phi = "" if variant.phi is None else f"{variant.phi:.6g}"
    multipliers = (f"{variant.depth:.4g}", f"{variant.width:.4g}", str(variant.resolution))
    memory = si(variant.memory(batch, precision), "B")
    return (phi, *multipliers, f"{variant.params:,}", si(variant.macs), si(variant.activations), memory)


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")
