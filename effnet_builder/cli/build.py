"""`build-arch`: check a spec, show what it means and costs, build it without memory, save a variant."""

from __future__ import annotations

import json
import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..arch.analysis import analyze
from ..arch.plan import Plan
from ..arch.resolve import resolve
from ..arch.spec import ArchSpec, load_spec
from ..arch.summary import align, counts_line, render_summary, si, summary_data, totals_line
from ..config import ConfigError, Mark, Node, Problem, load_document, locate, node_of, shipped, write_whole
from .console import (
    EXIT_FAILURE,
    SPEC_ARGUMENT,
    VERSION_OPTION,
    application,
    echo,
    fail,
    reporting,
    run,
    varied_spec,
)
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
    spec: Annotated[str | None, SPEC_ARGUMENT] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print the stage table: px, channels, params, MACs. Imports no torch.")
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
        Format, typer.Option("--format", help="Of --summary and --list. Alone, json implies --summary.")
    ] = Format.table,
    save: Annotated[
        Path | None,
        typer.Option(metavar="OUT.yaml", help="Write the network, with all changes, as a spec that loads again."),
    ] = None,
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
    """  # noqa: D301 (the escape keeps the lines of the examples apart)
    flags = {
        "phi": phi,
        "width": width,
        "depth": depth,
        "resolution": resolution,
        "num_classes": num_classes,
        "in_channels": in_channels,
    }
    varied = bool(assignments) or any(value is not None for value in flags.values())
    if list_specs:
        if spec is not None or summary or layers or save is not None or varied:
            raise fail("--list goes with --format only; drop SPEC and the other options, or --list")
        with reporting("nothing was listed."):
            echo(_list(format_))
        return
    if spec is None:
        raise fail("Missing SPEC: the name of an archspec (see build-arch --list) or a YAML file. Try --help.")
    if layers and (summary or format_ is Format.json):
        raise fail("--layers prints torchinfo's table only; drop --summary and --format json, or --layers")
    with reporting("nothing was built."):
        loaded, changes = varied_spec(spec, assignments, **flags)
        plan = resolve(loaded)
        if phi is not None:
            _note_dropped(spec, plan, changes)
        if layers:
            echo(_layers(plan))
        elif format_ is Format.json:
            echo(json.dumps(summary_data(plan, analyze(plan)), indent=2))
        elif summary:
            echo(render_summary(plan, analyze(plan)))
        else:
            echo(_check(plan))
        if save is not None:
            _save(loaded, plan, save, changes)
        if weights is None and spec.endswith(".safetensors"):
            weights = Path(spec)
        if weights is not None or save_weights is not None:
            convert_weights(plan, weights, weights_layout, save_weights, layout)
        if compare_weights is not None:
            compare_with(plan, compare_weights)


def main() -> None:
    """Entry point of `build-arch`."""
    run(app, "build-arch")


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


def _save(spec: ArchSpec, plan: Plan, file: Path, changes: dict[str, Node]) -> None:
    """Write the spec, whole, with `extends` and all changes worked in."""
    mark = Mark(f"--save {file}")
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError([Problem("expected a name that ends in .yaml", mark=mark)])
    if os.path.lexists(file):
        raise ConfigError([Problem("exists already, and is not overwritten", mark=mark)])
    if changes:
        said = " ".join(node.mark.source for node in changes.values() if node.value is not None)
        own = {"name": node_of(file.stem, mark), "description": f"{spec.name} with {said}"[:2000], "published": None}
        spec = spec.vary({path: value for path, value in own.items() if path not in changes})
    header = f"# {spec.name}: {counts_line(plan, analyze(plan))}. Written by effnet_builder {__version__}.\n"
    try:
        write_whole(file, header + spec.to_yaml())
    except OSError as error:
        raise ConfigError([Problem(f"cannot be written: {error.strerror or error}", mark=mark)]) from None
    echo(f"wrote {file}", err=True)
