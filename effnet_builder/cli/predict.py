"""`predict-arch`: what a trained network says of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..config import ConfigError, Mark, Problem
from .console import VERSION_OPTION, application, echo, reporting, run
from .evaluate import CHECKPOINT_OPTION, RAW_OPTION, TRAINED_ARGUMENT, Format, ViewsChoice
from .predictions_table import prediction_rows, predictions_table
from .train_options import DeviceOption

app = application()


@app.command()
def predict_arch(
    trained: Annotated[Path, TRAINED_ARGUMENT],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, max=5, help="Classes to print for each image.")] = 5,
    checkpoint: Annotated[str, CHECKPOINT_OPTION] = "kept",
    raw: Annotated[bool, RAW_OPTION] = False,
    views: Annotated[
        ViewsChoice,
        typer.Option(help="Average the outputs over mirror images (flip), and over shifts by a pixel (flip-shift)."),
    ] = ViewsChoice.none,
    device: DeviceOption = None,
    output_format: Annotated[Format, typer.Option("--format", help="text, or json with a row for each image.")] = Format.text,
    version: Annotated[bool, VERSION_OPTION] = False,
) -> None:
    """Print class names and probabilities for images.

    \b
    predict-arch runs/efficientnet-pico-digits-1 seven.png
    predict-arch model.safetensors *.jpg --top 1 --format json
    """  # noqa: D301 (the escape keeps the lines of the examples apart)
    with reporting("nothing was predicted."):
        from dataclasses import replace

        from ..train.folders import read_square
        from ..train.images import with_channels
        from ..train.predictions import infer, rank
        from ..train.processes import Processes
        from .session import choose
        from .trained import how_to_evaluate, load_trained, to_device

        found = load_trained(trained, checkpoint, raw=raw)
        how = replace(how_to_evaluate(found), views=views.value)
        where = choose((device and device.value) or "auto", Processes())
        model = to_device(found.model, where, channels_last=how.channels_last)
        pixels = []
        size = round(how.inputs.resolution / how.inputs.eval_crop)
        problems = []
        for path in images:
            try:
                pixels.append(with_channels(read_square(path, found.plan.in_channels, size), found.plan.in_channels))
            except (OSError, ValueError, SyntaxError) as error:
                problems.append(Problem(f"not a readable image: {error}", mark=Mark(str(path))))
        if problems:
            raise ConfigError(problems)
        said = [rank(infer(model, one.to(where), how)) for one in pixels]
        indices = [classes[0, :top].tolist() for classes, _ in said]
        shares = [probabilities[0, :top].tolist() for _, probabilities in said]
        names = [found.name(index) for index in range(found.plan.num_classes)]
        sources = [str(path) for path in images]
        if output_format is Format.json:
            echo(json.dumps(prediction_rows(sources, indices, shares, names), indent=2, ensure_ascii=False))
        else:
            echo(predictions_table(sources, indices, shares, names))


def main() -> None:
    """Entry point of `predict-arch`."""
    run(app, "predict-arch")
