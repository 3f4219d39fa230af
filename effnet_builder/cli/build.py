"""`build-arch`: check a spec, show what it means and costs, build it without memory, save a variant."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..arch.analysis import analyze
from ..arch.plan import Plan
from ..arch.resolve import resolve
from ..arch.spec import ArchSpec, load_spec
from ..arch.summary import align, render_summary, si, summary_data, totals_line
from ..config import Node, load_document, locate, shipped
from .console import (
    EXIT_FAILURE,
    LIMIT_OPTION,
    SPECS_ARGUMENT,
    VERSION_OPTION,
    application,
    echo,
    fail,
    reporting,
    run,
    varied_spec,
)
from .outputs import PICTURE, SPEC, WEIGHTS, check_outputs
from .pictures import THEME_OPTION, ThemeOption, draw_accuracies, draw_diagram
from .saving import save_spec
from .schema import schema_option
from .weights import Layout, compare_with, convert_weights

if TYPE_CHECKING:
    from ..models.network import Network

app = application()


class Format(str, Enum):
    """How a summary or list is printed."""

    table = "table"
    json = "json"


@app.command()
def build_arch(
    specs: Annotated[list[str] | None, SPECS_ARGUMENT] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print the stage table: px, channels, params, MACs. Imports no torch.")
    ] = False,
    explain_numbers: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Print where every number comes from; parts may follow, as in SPEC --explain stages.3 head.",
        ),
    ] = False,
    compare_specs: Annotated[
        bool, typer.Option("--compare", help="Print several SPECs side by side, with what differs marked.")
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Print torchinfo's table of the real module. Allocates no weights.")
    ] = False,
    list_specs: Annotated[
        bool, typer.Option("--list", help="List the shipped archspecs with params and MACs.")
    ] = False,
    phi: Annotated[
        float | None,
        typer.Option(help="Scale by alpha, beta, gamma raised to PHI, instead of the spec's multipliers."),
    ] = None,
    width: Annotated[float | None, typer.Option(help="Multiply the channels by WIDTH.")] = None,
    depth: Annotated[float | None, typer.Option(help="Multiply the blocks of each stage by DEPTH.")] = None,
    resolution: Annotated[float | None, typer.Option(help="Image size in px.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Outputs of the classifier.")] = None,
    in_channels: Annotated[int | None, typer.Option(help="Channels of the image.")] = None,
    assignments: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Replace any value, as in stages.2.kernel_size=3. May be repeated."
        ),
    ] = [],  # noqa: B006
    format_: Annotated[
        Format,
        typer.Option("--format", help="Of --summary, --list, --explain and --compare. Alone, json implies --summary."),
    ] = Format.table,
    save: Annotated[
        Path | None,
        typer.Option(metavar="OUT.yaml", help="Write the network, with all changes, as a spec that loads again."),
    ] = None,
    diagram: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.svg", help="Draw the network to scale (.svg, .png); with --list, the accuracies over MACs."
        ),
    ] = None,
    theme: THEME_OPTION = ThemeOption.light,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Copy weights (.safetensors, .pth) into the network, of any known layout."),
    ] = None,
    save_weights: Annotated[
        Path | None,
        typer.Option(metavar="OUT.safetensors", help="Write the network's weights, new ones without --weights."),
    ] = None,
    weights_layout: Annotated[
        Layout | None, typer.Option(help="Names of the tensors in the file of --weights; else they are recognized.")
    ] = None,
    layout: Annotated[
        Layout, typer.Option(help="Names of the tensors in the file of --save-weights.")
    ] = Layout.effnet_builder,
    compare_weights: Annotated[
        str | None,
        typer.Option(
            metavar="LIBRARY[:NAME]",
            help="Copy the random weights of timm's or torchvision's network, and print the largest output difference.",
        ),
    ] = None,
    limit: Annotated[list[str] | None, LIMIT_OPTION] = None,
    schema: Annotated[bool, schema_option("archspec")] = False,
    version: Annotated[bool, VERSION_OPTION] = False,
) -> None:
    """Build a convolutional network from a YAML spec.

    Without options: check the spec, lay out the network, build the torch module without allocating its weights,
    compare the two, and print one line.

    \b
    build-arch efficientnet-b0 --summary
    build-arch efficientnet-b0 --phi 3 --save mine.yaml
    build-arch mine.yaml --set stages.2.kernel_size=3 --format json
    build-arch efficientnet-b4 --explain stages.5
    build-arch efficientnet-b0 mine.yaml --compare
    """  # noqa: D301 (the escape keeps the lines of the examples apart)
    flags = {
        "phi": phi, "width": width, "depth": depth, "resolution": resolution, "num_classes": num_classes,
        "in_channels": in_channels,
    }  # fmt: skip
    printing = _one_of(
        {"--summary": summary, "--layers": layers, "--list": list_specs, "--explain": explain_numbers,
         "--compare": compare_specs}
    )  # fmt: skip
    spec, more = (specs[0], specs[1:]) if specs else (None, [])
    writes = any(given is not None for given in (save, weights, save_weights, compare_weights))
    if printing == "--list":
        if spec is not None or writes or assignments or any(value is not None for value in flags.values()):
            raise fail("--list goes with --format only; drop SPEC and the other options, or --list")
        with reporting("nothing was listed."):
            check_outputs([("--diagram", diagram, PICTURE)])
            echo(_list(format_), lines=True)
            if diagram is not None:
                draw_accuracies(diagram, theme)
        return
    if spec is None:
        raise fail("Missing SPEC: the name of an archspec (see build-arch --list) or a YAML file. Try --help.")
    if printing == "--layers" and format_ is Format.json:
        raise fail("--layers prints torchinfo's table only; drop --format json, or --layers")
    if more and printing not in ("--compare", "--explain"):
        raise fail(f"{len(more) + 1} SPECs; several go with --compare only")
    if printing == "--compare" and (not more or writes or diagram):
        raise fail("--compare takes two SPECs or more, and goes with none of --save, --weights and the like")
    with reporting("nothing was built.", limit or ()):
        check_outputs(
            [("--save", save, SPEC), ("--diagram", diagram, PICTURE), ("--save-weights", save_weights, WEIGHTS)]
        )
        loaded, changes = varied_spec(spec, assignments, **flags)
        plan = resolve(loaded)
        if phi is not None:
            _note_dropped(spec, plan, changes)
        if printing == "--compare":
            others = [resolve(varied_spec(other, assignments, **flags)[0]) for other in more]
            echo(_compared([plan, *others], format_), lines=True)
        elif printing == "--explain":
            echo(_explained(loaded, more or [""], format_), lines=True)
        else:
            echo(_show(plan, printing, format_), lines=True)
        if save is not None:
            said = " ".join(node.mark.source for node in changes.values() if node.value is not None)
            save_spec(loaded, save, f"{loaded.name} with {said}" if changes else None, changes)
        if weights is None and spec.endswith(".safetensors"):
            from ..models.files import check_claim

            check_claim(spec)
            weights = Path(spec)
        if weights is not None or save_weights is not None:
            convert_weights(plan, weights, weights_layout, save_weights, layout)
        if diagram is not None:  # after what would be lost if it failed
            draw_diagram(plan, diagram, theme)
        if compare_weights is not None:
            compare_with(plan, compare_weights)


def main() -> None:
    """Entry point of `build-arch`."""
    run(app, "build-arch")


def _one_of(given: dict[str, bool]) -> str | None:
    """The one option of what to print that was given, if any."""
    options = [option for option, is_given in given.items() if is_given]
    if len(options) > 1:
        raise fail(f"{' and '.join(options)} print different things; give one of them")
    return options[0] if options else None


def _show(plan: Plan, printing: str | None, format_: Format) -> str:
    if printing == "--layers":
        return _layers(plan)
    if format_ is Format.json:
        return json.dumps(summary_data(plan, analyze(plan)), indent=2)
    return render_summary(plan, analyze(plan)) if printing == "--summary" else _check(plan)


def _compared(plans: list[Plan], format_: Format) -> str:
    from ..arch.compare import comparison_data, render_comparison

    return json.dumps(comparison_data(plans), indent=2) if format_ is Format.json else render_comparison(plans)


def _explained(spec: ArchSpec, parts: list[str], format_: Format) -> str:
    from ..arch.explain import explain

    explanations = [explain(spec, part) for part in parts]
    if format_ is Format.json:
        return json.dumps([asdict(each) for each in explanations], indent=2)
    return "\n\n".join(map(str, explanations))


def _note_dropped(source: str, plan: Plan, changes: dict[str, Node]) -> None:
    """Say which explicit values of the spec gave way to `--phi`."""
    before = load_document(source, "archspecs").root
    dropped = []
    for name in ("depth", "width", "resolution"):
        explicit, _ = locate(before, ("scaling", name))
        if explicit and explicit.value is not None and changes[f"scaling.{name}"].value is None:
            dropped.append(f"{name} {explicit.value}")
    if dropped:
        echo(f"note: --phi {plan.spec.scaling.phi:g} takes the place of the spec's {', '.join(dropped)}", err=True)


def _without_memory(plan: Plan) -> Network:
    """The module of a plan on torch's `meta` device."""
    import torch

    from ..models.network import Network

    with torch.device("meta"):
        return Network(plan)


def _check(plan: Plan) -> str:
    from ..models.verify import differences

    found = differences(_without_memory(plan), plan)
    if found:
        raise fail("\n".join(["plan and module disagree; this is a bug of effnet_builder:", *found]), EXIT_FAILURE)
    return f"{totals_line(plan, analyze(plan))}; {len(plan.blocks)} blocks; plan and module agree"


def _layers(plan: Plan) -> str:
    import torchinfo

    size = (1, plan.in_channels, plan.resolution, plan.resolution)
    columns = ("kernel_size", "output_size", "num_params", "mult_adds")
    table = torchinfo.summary(
        _without_memory(plan),
        size,
        device="meta",
        depth=5,
        verbose=0,
        col_names=columns,
        row_settings=("depth", "var_names"),
    )
    note = (
        "torchinfo's mult-adds count each weight of norms and each bias once more; MACs are those of the weights alone:"
    )
    return f"{table}\n{note}\n{totals_line(plan, analyze(plan))}"


def _list(format_: Format) -> str:
    plans = [resolve(load_spec(name)) for name in shipped("archspecs")]
    if format_ is Format.json:
        return json.dumps([summary_data(plan, analyze(plan)) for plan in plans], indent=2)
    rows = []
    for plan in plans:
        total, published = analyze(plan).total, plan.spec.published
        top1 = "" if published is None or published.top1 is None else f"{published.top1:.1f}"
        rows.append((plan.name, str(plan.resolution), f"{total.params:,}", si(total.macs), top1))
    table = align(("name", "px", "params", "MACs", "published top-1"), rows)
    return "\n".join([*table, "", "MACs: multiply-adds of convolutions and linear layers, one image."])
