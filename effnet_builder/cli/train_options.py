"""The options of every command that trains."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from .console import names


class Device(str, Enum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DataOption = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="digits: scikit-learn's 1,797 handwritten digits. "
        "folder:DIR: images in DIR/train/CLASS and DIR/test/CLASS (or val). "
        "webdataset:DIR: tar files DIR/train*.tar and DIR/test*.tar (or val). "
        "cifar10, cifar100, mnist, fashion-mnist, svhn: downloaded once, or read from NAME:DIR. "
        "fake[:COUNTxCLASSES]: generated.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="A shipped recipe by name, or a YAML file by path.  [default: digits for digits, else small-images]",
        autocompletion=lambda incomplete: names("recipes", incomplete),
        show_default=False,
    ),
]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training images, instead of the recipe's.")]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA where there is one.")]
