"""`scale-arch`: the variant that fits a budget, tables of variants, and the search for a rule."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..arch.fit import fit_budget
from ..arch.quantities import Budget, parse_budgets
from ..arch.resolve import resolve
from ..arch.rules import powers_of, rule_overrides
from ..arch.spec import ArchSpec
from ..arch.sweep import pareto, parse_grid, parse_range, sweep
from ..arch.variant_tables import fit_data, render_fit, render_variants
from ..arch.variants import Variant
from ..config import Mark, node_of
from .console import SPEC_ARGUMENT, VERSION_OPTION, application, echo, fail, reporting, run, varied_spec
from .saving import save_spec

if TYPE_CHECKING:
    from ..models.latency import Latency

app = application()


class Format(str, Enum):
    """How variants are printed."""

    table = "table"
    json = "json"
    csv = "csv"


@app.command()
def scale_arch(
    spec: Annotated[str, SPEC_ARGUMENT],
    fit: Annotated[
        list[str],
        typer.Option(
            metavar="QUANTITY=AMOUNT",
            help="The largest variant within a budget: macs=1G, params=10M, activations=8M, memory=8G@batch=128 (of a "
            "training step), latency=5ms@batch=1,device=cpu (measured). Several must all be respected.",
        ),
    ] = [],  # noqa: B006
    phi: Annotated[
        str | None, typer.Option(metavar="FROM:TO:STEP", help="A table of variants along the rule, as in 0:6:0.5.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            metavar="NAME=FROM:TO:STEP,...",
            help="A table of variants over a grid of depth, width and resolution, as in depth=1:3:0.2,width=0.5:2:0.1.",
        ),
    ] = None,
    only_pareto: Annotated[
        bool, typer.Option("--pareto", help="Of a table, keep variants with more params than all of fewer MACs.")
    ] = False,
    rule: Annotated[
        str,
        typer.Option(
            help="The spec's own (compound), depth, width or resolution alone, fast (Dollar et al. 2021), or weights "
            "such as d1_w8_g8_r1."
        ),
    ] = "compound",
    assignments: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Replace any value, as in scaling.alpha=1.3. May be repeated."
        ),
    ] = [],  # noqa: B006
    num_classes: Annotated[int | None, typer.Option(help="Outputs of the classifier.")] = None,
    in_channels: Annotated[int | None, typer.Option(help="Channels of the image.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of a training step, for the memory of a table.")] = 1,
    format_: Annotated[Format, typer.Option("--format", help="How variants are printed.")] = Format.table,
    save: Annotated[
        Path | None, typer.Option(metavar="OUT.yaml", help="Write the variant that fits as a spec that loads again.")
    ] = None,
    version: Annotated[bool, VERSION_OPTION] = False,
) -> None:
    """Scale the network of a YAML spec: to a budget, or over a range.

    \b
    scale-arch efficientnet-b0 --fit macs=1G --save one-gmac.yaml
    scale-arch efficientnet-b0 --phi 0:6:0.5
    scale-arch mobilenetv2-100 --sweep depth=1:2:0.25,width=0.5:2:0.25 --pareto
    """  # noqa: D301 (the escape keeps the lines of the examples apart)
    if sum(map(bool, (fit, phi, grid))) != 1:
        raise fail("give one of --fit, --phi and --sweep. Try --help.")
    if fit and only_pareto:
        raise fail("--pareto is of a table; drop it, or --fit")
    if save is not None and not fit:
        raise fail("--save writes the variant of --fit; build-arch SPEC --phi PHI --save writes any other")
    with reporting("nothing was scaled."):
        loaded, _ = varied_spec(spec, assignments, num_classes=num_classes, in_channels=in_channels)
        mark = Mark(f"--rule {rule}")
        ruled = loaded.vary({path: node_of(value, mark) for path, value in rule_overrides(rule).items()})
        if fit:
            _fit(ruled, rule, parse_budgets(fit), batch, format_, save)
            return
        if phi is not None:
            variants = sweep(ruled, parse_range(phi, "--phi"))
        else:
            assert grid is not None
            variants = sweep(ruled, **parse_grid(grid))
        echo(render_variants(pareto(variants) if only_pareto else variants, batch, format_.value))


def main() -> None:
    """Entry point of `scale-arch`."""
    run(app, "scale-arch")


def _fit(spec: ArchSpec, rule: str, budgets: list[Budget], batch: int, format_: Format, save: Path | None) -> None:
    latencies: list[tuple[Variant, Latency]] = []

    def measure(variant: Variant, budget: Budget) -> float:
        from ..models.latency import measure_latency

        plan = resolve(spec, phi=variant.phi)
        latencies.append((variant, measure_latency(plan, budget.batch, budget.device)))
        return latencies[-1][1].median

    found = fit_budget(spec, *budgets, measure=measure)
    if format_ is Format.json:
        echo(json.dumps(fit_data(spec, found, batch, latencies), indent=2))
    elif format_ is Format.csv:
        echo(render_variants([found.variant], batch, "csv"))
    else:
        echo(render_fit(spec, rule, found, budgets, batch, latencies))
    if save is not None:
        powers = ", ".join(f"{name} {value:.6g}" for name, value in powers_of(spec).items())
        said = ", ".join(map(str, budgets))
        text = f"{spec.name} at phi = {found.variant.phi:g}, the largest with {said}; rule {rule} ({powers}); "
        overrides = {"scaling.phi": found.variant.phi, "scaling.depth": None, "scaling.width": None}
        variant = spec.vary(overrides | {"scaling.resolution": None})
        save_spec(variant, save, f"{text}by scale-arch of effnet_builder {__version__}")
