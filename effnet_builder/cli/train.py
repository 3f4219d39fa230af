"""`train-arch`: a network from a spec, data, a recipe, and the shared trainer, composed into a run directory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..arch.analysis import analyze
from ..arch.plan import Plan
from ..arch.resolve import resolve
from ..arch.spec import load_spec
from ..arch.summary import totals_line
from ..config import Mark, Problem, node_of
from ..train.recipe import Normalize, Recipe, load_recipe
from ..train.run import next_free, run_directory
from .console import echo, fail, names, print_version, reporting

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from ..train.data import Dataset, Progress

app = typer.Typer(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)


class Device(str, Enum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.command()
def train_arch(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="A shipped archspec by name (see build-arch --list), or a YAML file by path.",
            autocompletion=lambda incomplete: names("archspecs", incomplete),
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="digits|folder:DIR",
            help="digits: scikit-learn's 1,797 handwritten digits. "
            "folder:DIR: images in DIR/train/CLASS and DIR/test/CLASS.",
        ),
    ] = "digits",
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A shipped recipe by name, or a YAML file by path.  [default: digits for digits, else small-images]",
            autocompletion=lambda incomplete: names("recipes", incomplete),
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images, instead of the recipe's.")
    ] = None,
    resolution: Annotated[float | None, typer.Option(help="Image size in px, instead of the spec's.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run directory.  [default: runs/SPEC-DATA-N]", show_default=False),
    ] = None,
    device: Annotated[Device, typer.Option(help="auto takes CUDA where there is one.")] = Device.auto,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    r"""Train the network of a YAML spec, and test it.

    The classifier gets one output for each class of the data. The run directory holds spec, recipe, metrics.csv,
    result.json and the weights; it appears when the run is done, whole.

    \b
    train-arch efficientnet-pico
    train-arch efficientnet-pico --data folder:images --epochs 2 --out runs/first
    """
    with reporting("nothing was trained."):
        plan = resolve(load_spec(spec), resolution=resolution)
        changes = {} if epochs is None else {"epochs": node_of(epochs, Mark(f"--epochs {epochs}"))}
        chosen = load_recipe(recipe or ("digits" if data == "digits" else "small-images"), changes)
        target = out or next_free(Path("runs"), f"{plan.name}-{data.partition(':')[0]}")
        if target.exists():
            raise fail(f"--out {target}: exists already, and is not overwritten")
        try:
            with run_directory(target) as folder:
                _train(plan, chosen, data, folder, device.value)
        except OSError as error:
            raise fail(f"{target}: {error.strerror or error}; nothing was kept", code=1) from None
        except KeyboardInterrupt:
            raise fail("interrupted; nothing was kept", code=130) from None
    echo(f"wrote {target}", bold=True)


def main() -> None:
    """Entry point of `train-arch`."""
    app(prog_name="train-arch")


def _train(plan: Plan, recipe: Recipe, data: str, folder: Path, device_name: str) -> None:
    """Train into an empty folder."""
    import torch
    from rich.console import Console

    from ..models.network import Network
    from ..train.augment import InputPath, measure
    from ..train.data import load_dataset, split
    from ..train.engine import Diverged, choose_device, evaluate, fit
    from ..train.loggers import ConsoleLogger, CsvLogger
    from ..train.run import save_weights

    try:
        device = choose_device(device_name)
    except ValueError as error:
        raise fail(f"--device {device_name}: {error}") from None
    console = Console(soft_wrap=True, highlight=False)
    dataset = load_dataset(data, channels=plan.in_channels, size=plan.resolution, progress=_progress(console))
    plan = _with_classes(plan, dataset)
    train, valid = split(dataset.train.to(device), recipe.valid_fraction, recipe.seed)
    normalize = _normalization(recipe, plan.in_channels) or measure(train)
    recipe = recipe.vary({"normalize": normalize.model_dump()})
    inputs = InputPath(plan.resolution, normalize, recipe.augment)

    torch.manual_seed(recipe.seed)
    model = Network(plan).to(device)
    echo(f"{totals_line(plan, analyze(plan))}")
    echo(f"{dataset.name}: {len(train):,} images to train, {len(valid):,} to validate, {len(dataset.test):,} to test")
    echo(f"recipe {recipe.name}, {recipe.epochs} epochs, batch size {recipe.batch_size}, on {device}")
    progress = ConsoleLogger(console, recipe.epochs)
    try:
        history = fit(model, train, valid, recipe, inputs, [progress, CsvLogger(folder / "metrics.csv")])
    except Diverged as error:
        raise fail(f"{error}; nothing was kept", code=1) from None
    finally:
        progress.close()
    test = evaluate(model, dataset.test.to(device), recipe.batch_size, inputs)
    echo(f"test accuracy {test.accuracy:.2%}, loss {test.loss:.4f}, on {len(dataset.test):,} images", bold=True)

    save_weights(model, folder / "model.safetensors")
    (folder / "spec.yaml").write_text(plan.spec.to_yaml())
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    result = {
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "test_images": len(dataset.test),
        "valid_accuracy": history[-1].valid_accuracy,
        "train_seconds": sum(metrics.seconds for metrics in history),
        "data": data,
        "classes": dataset.classes,
    }
    (folder / "result.json").write_text(json.dumps(result | _environment(device), indent=2) + "\n")


def _environment(device: torch.device) -> dict[str, object]:
    """What the last bit of a result may depend on."""
    import torch

    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "effnet_builder": __version__,
    }


def _with_classes(plan: Plan, dataset: Dataset) -> Plan:
    """The plan with one output for each class of the data."""
    wanted, found = plan.head.classifier.out_features, len(dataset.classes)
    if wanted == found:
        return plan
    echo(f"num_classes {wanted:,} -> {found}: {dataset.name} has {found} classes")
    return resolve(plan.spec, num_classes=found)


def _normalization(recipe: Recipe, channels: int) -> Normalize | None:
    """The recipe's mean and std, if it has any; they must be for as many channels as the network takes."""
    given = recipe.normalize
    if given is not None and len(given.mean) != channels:
        raise recipe.error([Problem(f"has {len(given.mean)} channels, the network takes {channels}", ("normalize",))])
    return given


def _progress(console: Console) -> Progress:
    """A bar on a terminal, nothing elsewhere."""
    from rich.progress import track

    def wrap(items: Iterable[object], total: int, description: str) -> Iterable[object]:
        return track(items, description, total, console=console, transient=True, disable=not console.is_terminal)

    return wrap
