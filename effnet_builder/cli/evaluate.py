"""`eval-arch`: every figure of a trained network on a data set, each image counted once."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..arch.summary import align
from ..config import ConfigError, Mark, Problem, of_system, printable
from .console import (
    EXIT_FAILURE,
    LIMIT_OPTION,
    VERSION_OPTION,
    application,
    echo,
    fail,
    leave,
    one_of_many,
    reporting,
    run,
)
from .train_options import DataOption, DeviceOption, OnBadOption, StorageOption, TimeoutOption, WorkersOption

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..train.data import Dataset, ImageSet
    from ..train.metrics import Metrics
    from ..train.predictions import Evaluation
    from .trained import Trained


class Split(str, Enum):
    """The images of a data set."""

    test = "test"
    valid = "valid"
    train = "train"


class ViewsChoice(str, Enum):
    """Views of each image, over which the outputs are averaged."""

    none = "none"
    flip = "flip"
    flip_shift = "flip-shift"


class Format(str, Enum):
    """How figures are printed."""

    text = "text"
    json = "json"


app = application()

TRAINED_ARGUMENT = typer.Argument(metavar="RUN", help="A run directory, or a model.safetensors.", show_default=False)
CHECKPOINT_OPTION = typer.Option(
    metavar="kept|last|best|STEP", help="What the run ended with, or one of its checkpoints."
)
ViewsOption = Annotated[
    ViewsChoice,
    typer.Option(help="Average the outputs over mirror images (flip), and over shifts by a pixel (flip-shift)."),
]
RAW_OPTION = typer.Option("--raw", help="Of a checkpoint, the network itself instead of its average.")


@app.command()
def eval_arch(
    trained: Annotated[Path, TRAINED_ARGUMENT],
    data: DataOption = None,
    split: Annotated[Split, typer.Option(help="Which images; valid are those that the run held out.")] = Split.test,
    checkpoint: Annotated[str, CHECKPOINT_OPTION] = "kept",
    raw: Annotated[bool, RAW_OPTION] = False,
    views: ViewsOption = ViewsChoice.none,
    norm_images: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Measure the statistics of batch norms anew on N training images first."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at a time.  [default: the recipe's]")] = None,
    device: DeviceOption = None,
    storage: StorageOption = None,
    workers: WorkersOption = None,
    on_bad: OnBadOption = None,
    timeout: TimeoutOption = None,
    output_format: Annotated[Format, typer.Option("--format", help="text, or json with everything.")] = Format.text,
    limit: Annotated[list[str] | None, LIMIT_OPTION] = None,
    version: Annotated[bool, VERSION_OPTION] = False,
) -> None:
    """Evaluate a trained network: accuracy, loss, calibration, and each class by itself.

    \b
    eval-arch runs/efficientnet-pico-digits-1
    eval-arch runs/first --data folder:images --split valid --views flip
    eval-arch runs/first --checkpoint best --format json
    torchrun --nproc-per-node 2 --no-python eval-arch runs/first
    """  # noqa: D301 (the escape keeps the lines of the examples apart)
    with reporting("nothing was evaluated.", limit or ()):
        options: dict[str, Any] = {
            "data": data, "workers": workers, "device": device and device.value, "storage": storage and storage.value,
            "on_bad": on_bad and on_bad.value, "timeout": timeout,
        }  # fmt: skip
        from ..failures import first_line, is_out_of_memory
        from ..train.company import Lost
        from ..train.images import DataError

        try:
            _evaluate(trained, options, split, checkpoint, raw, views.value, norm_images, batch_size, output_format)
        except Lost as lost:
            leave(f"{lost}")
        except OSError as error:
            raise fail(of_system(error), EXIT_FAILURE, own=True) from None
        except DataError as error:
            raise fail(f"{error}", EXIT_FAILURE, own=True) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise fail(f"{first_line(error)}; give a smaller --batch-size", EXIT_FAILURE, own=True) from None


def main() -> None:
    """Entry point of `eval-arch`."""
    one_of_many()
    run(app, "eval-arch")


def _evaluate(
    path: Path, options: dict[str, Any], split: Split, checkpoint: str, raw: bool, views: Any, norm_images: int | None,
    batch_size: int | None, output_format: Format,
) -> None:  # fmt: skip
    from ..arithmetic import float32_products
    from ..train.device import to_device
    from ..train.loading import Loader
    from ..train.metrics import measure
    from ..train.predictions import predict
    from ..train.processes import processes
    from .compose import choose
    from .dataset import read_data
    from .order import Order
    from .trained import how_to_evaluate, load_trained

    trained = load_trained(path, checkpoint, raw=raw)
    if trained.order is None and options["data"] is None:
        raise ConfigError([Problem("missing: a file of weights does not say on which data", mark=Mark("--data"))])
    order = (trained.order or Order()).vary(options)
    where = choose(order.device)
    with processes(where, order.timeout) as who:
        how = replace(how_to_evaluate(trained, batch_size), views=views, processes=who)
        model = to_device(trained.model, where, channels_last=how.channels_last)
        who.at("reading data")
        dataset = read_data(order, trained.plan, how.inputs.eval_crop, where)
        who.meet()
        who.at("evaluating")
        check_classes(trained, dataset, order.data)
        images = _images(trained, dataset, split)
        if norm_images is not None:
            _renew_statistics(model, trained, dataset, how, where, norm_images)
        with float32_products(how.precision, where):
            metrics = measure(
                predict(model, Loader(images, where, order.workers, order.timeout), how), len(dataset.classes)
            )
        if output_format is Format.json:
            shown = {"split": split.value, "data": order.data, **metrics.to_dict()}
            echo(json.dumps(shown, indent=2), lines=True)
        else:
            echo(f"{trained.plan.name}, {trained.weights}, on {dataset.name}, {split.value}: {metrics.count:,} images")
            echo("\n".join(figures(metrics, dataset.classes)), lines=True)


def check_classes(trained: Trained, dataset: Dataset, data: str) -> None:
    """Refuse data with other classes than the network was trained on. Raises ConfigError."""
    mark = Mark(f"--data {data}")
    have, want = len(dataset.classes), trained.plan.num_classes
    if have != want:
        raise ConfigError([Problem(f"has {have} classes, the network tells {want} apart", mark=mark)])
    if trained.classes is not None and dataset.classes != trained.classes:
        pairs = [f"{a} for {b}" for a, b in zip(dataset.classes, trained.classes, strict=True) if a != b]
        raise ConfigError([Problem(f"its classes have other names: {printable(', '.join(pairs[:5]))}", mark=mark)])


def figures(metrics: Metrics, classes: tuple[str, ...]) -> list[str]:
    """The figures as lines: all together, then each class."""
    header = ("class", "images", "precision", "recall", "f1")
    rows = [
        (name, f"{one.support:,}", f"{one.precision:.2%}", f"{one.recall:.2%}", f"{one.f1:.4f}")
        for name, one in zip(classes, metrics.classes, strict=True)
    ]
    return [
        f"top-1 {metrics.top1:.2%}  top-5 {metrics.top5:.2%}  loss {metrics.loss:.4f}  calibration error "
        f"{metrics.calibration_error:.4f}  balanced accuracy {metrics.balanced_accuracy:.2%}",
        "",
        *align(header, rows),
    ]


def _images(trained: Trained, dataset: Dataset, split: Split) -> ImageSet:
    from ..train.data import split as held_out

    if split is Split.test:
        return dataset.test
    if trained.recipe is None:
        message = "a file of weights does not say which images were held out; expected test"
        raise ConfigError([Problem(message, mark=Mark(f"--split {split.value}"))])
    train, valid = held_out(dataset.train, trained.recipe.valid_fraction, trained.recipe.seed)
    return train if split is Split.train else valid


def _renew_statistics(
    model: nn.Module, trained: Trained, dataset: Dataset, how: Evaluation, device: torch.device, count: int
) -> None:
    from ..train.evaluation import recompute_norm_statistics
    from ..train.loading import Loader
    from .finish import norm_batches

    train = _images(trained, dataset, Split.train) if trained.recipe is not None else dataset.train
    seed = 0 if trained.recipe is None else trained.recipe.seed
    recompute_norm_statistics(model, norm_batches(Loader(train, device), how, seed, count))
