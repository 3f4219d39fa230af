"""`scale-arch`: the variant that fits a budget, tables of variants, and the search for a rule."""

from __future__ import annotations

import json
import math
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
from ..precisions import Precision
from .console import LIMIT_OPTION, SPEC_ARGUMENT, VERSION_OPTION, application, echo, fail, reporting, run, varied_spec
from .outputs import PICTURE, SPEC, check_outputs
from .pictures import THEME_OPTION, ThemeOption, draw_sweep
from .saving import save_spec
from .train_options import DataOption, Device, DeviceOption, EpochsOption, RecipeOption

if TYPE_CHECKING:
    from ..models.latency import Latency

app = application()


class PrecisionChoice(str, Enum):
    """The arithmetic of a training step."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"

    value: Precision


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
            "training step; also precision=bf16), latency=5ms@batch=1,device=cpu,precision=fp32 (measured). "
            "Several must all be respected.",
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
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="The networks of every alpha, beta, gamma with alpha * beta^2 * gamma^2 about 2, each once.",
        ),
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
    precision: Annotated[PrecisionChoice, typer.Option(help="Arithmetic of that step.")] = PrecisionChoice.fp32,
    format_: Annotated[Format, typer.Option("--format", help="How variants are printed.")] = Format.table,
    save: Annotated[
        Path | None, typer.Option(metavar="OUT.yaml", help="Write the variant that fits as a spec that loads again.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="OUT.svg", help="Draw costs over phi (.svg, .png), beside one dimension scaled alone."),
    ] = None,
    theme: THEME_OPTION = ThemeOption.light,
    step: Annotated[float, typer.Option(help="Of --search: the distance of the grid's points.")] = 0.05,
    tolerance: Annotated[
        float, typer.Option(help="Of --search: how far from 2 the growth may be, as a share of it.")
    ] = 0.1,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of --search: write each network as a spec.", show_default=False)
    ] = None,
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="Of --search: train each on a proxy, shared with all processes on the study, and rank them."
        ),
    ] = False,
    data: DataOption = None,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    device: DeviceOption = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="Of --train: a file, or a database when several machines work on one study.  "
            "[default: runs/SPEC-DATA.study]",
            show_default=False,
        ),
    ] = None,
    study_name: Annotated[
        str | None, typer.Option(help="For a database of many studies.  [default: SPEC-DATA]", show_default=False)
    ] = None,
    limit: Annotated[list[str] | None, LIMIT_OPTION] = None,
    version: Annotated[bool, VERSION_OPTION] = False,
) -> None:
    """Scale the network of a YAML spec: to a budget, or over a range.

    \b
    scale-arch efficientnet-b0 --fit macs=1G --save one-gmac.yaml
    scale-arch efficientnet-b0 --phi 0:6:0.5
    scale-arch mobilenetv2-100 --sweep depth=1:2:0.25,width=0.5:2:0.25 --pareto
    scale-arch efficientnet-pico --search --step 0.1 --train
    """  # noqa: D301 (the escape keeps the lines of the examples apart)
    _refuse_combinations(fit, phi, grid, search, only_pareto, save, plot, out, train)
    with reporting("nothing was scaled.", limit or ()):
        check_outputs([("--save", save, SPEC), ("--plot", plot, PICTURE)])
        loaded, _ = varied_spec(spec, assignments, num_classes=num_classes, in_channels=in_channels)
        mark = Mark(f"--rule {rule}")
        ruled = loaded.vary({path: node_of(value, mark) for path, value in rule_overrides(rule).items()})
        if search:
            from .search import search_candidates, search_train
        if train:
            search_train(
                loaded, step=step, tolerance=tolerance, data=data or "digits", recipe=recipe, epochs=epochs,
                study=study, study_name=study_name, device=(device or Device.auto).value,
            )  # fmt: skip
        elif search:
            search_candidates(loaded, out, step, tolerance)
        elif fit:
            budgets = parse_budgets(fit)
            found = _fit(ruled, rule, budgets, (batch, precision.value), format_, save)
            if plot is not None:
                draw_sweep(loaded, rule, _around(ruled, found), plot, theme, budgets, found)
        else:
            values = {"phi": parse_range(phi, "--phi")} if phi is not None else parse_grid(str(grid))
            variants = sweep(ruled, **values)
            shown = pareto(variants) if only_pareto else variants
            echo(render_variants(shown, batch, format_.value, precision.value), lines=True)
            if plot is not None:
                draw_sweep(loaded, rule, variants, plot, theme)


def _refuse_combinations(
    fit: list[str],
    phi: str | None,
    grid: str | None,
    search: bool,
    only_pareto: bool,
    save: Path | None,
    plot: Path | None,
    out: Path | None,
    train: bool,
) -> None:
    """Options of one way to scale beside another."""
    if sum(map(bool, (fit, phi, grid, search))) != 1:
        raise fail("give one of --fit, --phi, --sweep and --search. Try --help.")
    if only_pareto and not (phi or grid):
        raise fail("--pareto is of a table, which --phi and --sweep give")
    if plot is not None and not (fit or phi):
        raise fail("--plot is of costs over phi, which --phi and --fit give")
    if save is not None and not fit:
        raise fail("--save writes the variant of --fit; build-arch SPEC --phi PHI --save writes any other")
    if (out is not None or train) and not search:
        raise fail("--out and --train belong to --search")
    if out is not None and train:
        raise fail("--out writes the candidates, --train trains them: one after the other")


def _around(spec: ArchSpec, found: Variant) -> list[Variant]:
    """Variants from the base network, or below, to some way beyond the one that was found."""
    phi = found.phi or 0.0
    first, last = min(0.0, math.floor(phi)), max(1.0, math.ceil(1.25 * phi))
    return sweep(spec, phi=[first + (last - first) * i / 24 for i in range(25)])


def main() -> None:
    """Entry point of `scale-arch`."""
    run(app, "scale-arch")


def _fit(
    spec: ArchSpec, rule: str, budgets: list[Budget], step: tuple[int, Precision], format_: Format, save: Path | None
) -> Variant:
    """Print the answer, write its spec; the variant. `step` is batch and precision of the memory that is shown."""
    batch, precision = step
    latencies: list[tuple[Variant, Latency]] = []

    def measure(variant: Variant, budget: Budget) -> float:
        from ..models.latency import measure_latency

        plan = resolve(spec, phi=variant.phi)
        latencies.append((variant, measure_latency(plan, budget.batch, budget.device, budget.precision)))
        return latencies[-1][1].median

    found = fit_budget(spec, *budgets, measure=measure)
    if format_ is Format.json:
        echo(json.dumps(fit_data(spec, found, batch, latencies, precision), indent=2), lines=True)
    elif format_ is Format.csv:
        echo(render_variants([found.variant], batch, "csv", precision), lines=True)
    else:
        echo(render_fit(spec, rule, found, budgets, batch, latencies, precision), lines=True)
    if save is not None:
        powers = ", ".join(f"{name} {value:.6g}" for name, value in powers_of(spec).items())
        said = ", ".join(map(str, budgets))
        text = f"{spec.name} at phi = {found.variant.phi:g}, the largest with {said}; rule {rule} ({powers}); "
        overrides = {"scaling.phi": found.variant.phi, "scaling.depth": None, "scaling.width": None}
        variant = spec.vary(overrides | {"scaling.resolution": None})
        save_spec(variant, save, f"{text}by scale-arch of effnet_builder {__version__}")
    return found.variant
