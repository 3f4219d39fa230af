"""`predict-arch`: what a trained network says of images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import ConfigError, Mark, Problem
from .console import LIMIT_OPTION, VERSION_OPTION, application, echo, reporting, run
from .evaluate import CHECKPOINT_OPTION, RAW_OPTION, TRAINED_ARGUMENT, Format, ViewsChoice, ViewsOption
from .predictions_table import prediction_rows, predictions_table
from .train_options import DeviceOption

if TYPE_CHECKING:
    from torch import Tensor

app = application()


@app.command()
def predict_arch(
    trained: Annotated[Path, TRAINED_ARGUMENT],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, max=5, help="Classes to print for each image.")] = 5,
    checkpoint: Annotated[str, CHECKPOINT_OPTION] = "kept",
    raw: Annotated[bool, RAW_OPTION] = False,
    views: ViewsOption = ViewsChoice.none,
    device: DeviceOption = None,
    output_format: Annotated[
        Format, typer.Option("--format", help="text, or json with a row for each image.")
    ] = Format.text,
    limit: Annotated[list[str] | None, LIMIT_OPTION] = None,
    version: Annotated[bool, VERSION_OPTION] = False,
) -> None:
    """Print class names and probabilities for images.

    \b
    predict-arch runs/efficientnet-pico-digits-1 seven.png
    predict-arch model.safetensors *.jpg --top 1 --format json
    """  # noqa: D301 (the escape keeps the lines of the examples apart)
    with reporting("nothing was predicted.", limit or ()):
        from dataclasses import replace

        from ..train.device import to_device
        from ..train.predictions import infer, rank
        from .compose import choose
        from .trained import how_to_evaluate, load_trained

        found = load_trained(trained, checkpoint, raw=raw)
        how = replace(how_to_evaluate(found), views=views.value)
        where = choose((device and device.value) or "auto")
        model = to_device(found.model, where, channels_last=how.channels_last)
        size = round(how.inputs.resolution / how.inputs.eval_crop)
        pixels = read_images(images, found.plan.in_channels, size)
        said = [rank(infer(model, one.to(where), how)) for one in pixels]
        indices = [classes[0, :top].tolist() for classes, _ in said]
        shares = [probabilities[0, :top].tolist() for _, probabilities in said]
        names = [found.name(index) for index in range(found.plan.num_classes)]
        sources = [str(path) for path in images]
        if output_format is Format.json:
            echo(json.dumps(prediction_rows(sources, indices, shares, names), indent=2), lines=True)
        else:
            echo(predictions_table(sources, indices, shares, names), lines=True)


def main() -> None:
    """Entry point of `predict-arch`."""
    run(app, "predict-arch")


def read_images(paths: Sequence[Path], channels: int, size: int) -> list[Tensor]:
    """Image files as uint8 (1, C, S, S), S at most `size` px. Raises ConfigError with all that cannot be read."""
    import numpy as np
    import torch

    from ..train.encoded import decode, encoded_files, short_side, why

    pixels, problems = [], []
    for path in paths:
        files = encoded_files("", [str(path)])
        try:
            side = min(size, short_side(files, 0))
            image = np.empty((channels, side, side), np.uint8)
            decode(files.content(0), image)
            pixels.append(torch.from_numpy(image)[None])
        except Exception as error:  # of any kind: image files are anybody's
            problems.append(Problem(why(error), mark=Mark(str(path))))
    if problems:
        raise ConfigError(problems)
    return pixels
