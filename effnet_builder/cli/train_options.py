"""The options of the commands that train or read data."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from ..train.storage import OnBad, Storage
from .console import names


class Device(str, Enum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="digits: scikit-learn's 1,797 handwritten digits. "
        "folder:DIR: images in DIR/train/CLASS and DIR/test/CLASS (or val). "
        "webdataset:DIR: tar files DIR/train*.tar and DIR/test*.tar (or val). "
        "cifar10, cifar100, mnist, fashion-mnist, svhn: downloaded once, or read from NAME:DIR. "
        "fake[:COUNTxCLASSES]: generated.  [default: digits]",
        show_default=False,
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
DeviceOption = Annotated[
    Device | None, typer.Option(help="auto takes CUDA where there is one.  [default: auto]", show_default=False)
]
StorageOption = Annotated[
    Storage | None,
    typer.Option(
        help="Where images are kept: on the device, in memory, in a file of decoded images, or nowhere: they are "
        "decoded again in each epoch. auto takes the first that has room.  [default: auto]",
        show_default=False,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0, max=256, help="Processes that decode images that are kept nowhere.  [default: 0]", show_default=False
    ),
]
OnBadOption = Annotated[
    OnBad | None,
    typer.Option(
        help="Images that cannot be read: end with a list of them, or leave them out.  [default: error]",
        show_default=False,
    ),
]
TimeoutOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=86_400,
        metavar="SECONDS",
        help="How long to wait for another process, of the run or one that decodes images, that gives no answer.  "
        "[default: 300]",
        show_default=False,
    ),
]
