"""`train-arch`: a network from a spec, data, a recipe, and the shared trainer, composed into a run directory."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..arch.analysis import analyze
from ..arch.plan import Plan
from ..arch.resolve import resolve
from ..arch.summary import si, totals_line
from ..config import ConfigError, Mark, Problem, node_of
from ..train.recipe import Normalize, Recipe, load_recipe
from ..train.run import claim, claim_next, publishing
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
from .train_options import DataOption, Device, DeviceOption, EpochsOption, RecipeOption

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from torch import nn

    from ..models.network import Network
    from ..train.augment import InputPath
    from ..train.data import Dataset, ImageSet, Progress
    from ..train.loggers import Logger

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM

app = application()


@app.command()
def train_arch(
    spec: Annotated[str, SPEC_ARGUMENT],
    data: DataOption = "digits",
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    resolution: Annotated[float | None, typer.Option(help="Image size in px, instead of the spec's.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run directory.  [default: runs/SPEC-DATA-N]", show_default=False),
    ] = None,
    device: DeviceOption = Device.auto,
    schema: Annotated[bool, schema_option("recipe")] = False,
    version: Annotated[bool, VERSION_OPTION] = False,
) -> None:
    """Train the network of a YAML spec, and test it.

    The classifier gets one output for each class of the data. The run directory holds spec, recipe, metrics.csv,
    result.json and the weights; it appears when the run is done, whole.

    \b
    train-arch efficientnet-pico
    train-arch efficientnet-pico --data folder:images --epochs 2 --out runs/first
    """  # noqa: D301 (the escape keeps the lines of the examples apart)
    with reporting("nothing was trained."):
        plan = resolve(varied_spec(spec, resolution=resolution)[0])
        chosen = choose_recipe(recipe, data, epochs)
        signal.signal(signal.SIGTERM, _terminate)
        try:
            target, folder = _claim(out, f"{plan.name}-{data.partition(':')[0]}")
            with publishing(folder, target):
                _train(plan, spec, chosen, data, folder, device.value)
        except OSError as error:
            raise fail(f"{error}", EXIT_FAILURE) from None
        except KeyboardInterrupt:
            raise fail("interrupted; nothing was kept", EXIT_INTERRUPTED) from None
    echo(f"wrote {target}", bold=True)


def main() -> None:
    """Entry point of `train-arch`."""
    run(app, "train-arch")


def choose_recipe(recipe: str | None, data: str, epochs: int | None) -> Recipe:
    """The recipe of this name or file, else the one for the data; with other epochs, if given. Raises ConfigError."""
    changes = {} if epochs is None else {"epochs": node_of(epochs, Mark(f"--epochs {epochs}"))}
    return load_recipe(recipe or ("digits" if data == "digits" else "small-images"), changes)


def validation_accuracy(plan: Plan, dataset: Dataset, recipe: Recipe, device: torch.device) -> float | None:
    """Train new weights: accuracy on the validation images, None where the loss diverged. Raises ConfigError."""
    import torch

    from ..models.network import Network
    from ..train.augment import InputPath, measure
    from ..train.data import free_memory, split
    from ..train.engine import Diverged, fit

    _check_memory(plan, free_memory())
    train, valid = split(dataset.train, recipe.valid_fraction, recipe.seed)
    normalize = _normalization(recipe, plan.in_channels) or measure(train)
    torch.manual_seed(recipe.seed)
    model = Network(plan).to(device)
    try:
        fitted = fit(model, train, valid, recipe, InputPath(plan.resolution, normalize, recipe.augment), [])
    except Diverged:
        return None
    except torch.OutOfMemoryError:
        raise _out_of_memory(plan, recipe) from None
    return fitted.history[-1].kept_accuracy


def _terminate(*_: object) -> None:
    # Not typer.Exit: the signal may arrive inside a library, and some catch every Exception.
    raise SystemExit(fail("terminated; nothing was kept", EXIT_TERMINATED).exit_code)


def _claim(out: Path | None, default: str) -> tuple[Path, Path]:
    """Target and hidden folder of this run."""
    if out is None:
        return claim_next(Path("runs"), default)
    try:
        return out, claim(out)
    except OSError as error:
        reason = error.strerror if error.errno else error
        raise ConfigError([Problem(f"{reason}", mark=Mark(f"--out {out}"))]) from None


def _train(plan: Plan, source: str, recipe: Recipe, data: str, folder: Path, device_name: str) -> None:
    """Train into an empty folder, from new weights or from those of a .safetensors file."""
    import torch
    from rich.console import Console

    from ..models.files import load_weights
    from ..models.network import Network
    from ..train.augment import InputPath, measure
    from ..train.data import free_memory, load_dataset, split
    from ..train.engine import choose_device
    from ..train.loggers import ConsoleLogger, CsvLogger

    try:
        device = choose_device(device_name)
    except ValueError as error:
        raise fail(f"--device {device_name}: {error}") from None
    console = Console(highlight=False)
    dataset = load_dataset(data, channels=plan.in_channels, size=plan.resolution, progress=_progress(console))
    plan = _with_classes(plan, dataset)
    train, valid = split(dataset.train, recipe.valid_fraction, recipe.seed)
    normalize = _normalization(recipe, plan.in_channels) or measure(train)
    recipe = recipe.vary({"normalize": normalize})
    plan = resolve(plan.spec.vary({"normalization": {"mean": normalize.mean, "std": normalize.std}}))

    echo(totals_line(plan, analyze(plan)))
    echo(f"{dataset.name}: {len(train):,} images to train, {len(valid):,} to validate, {len(dataset.test):,} to test")
    if dataset.ignored:
        echo(f"{dataset.ignored:,} files are left out: their names are not those of images", err=True)
    for note in dataset.notes:
        echo(note, err=True)
    echo(f"recipe {recipe.name}, {recipe.epochs} epochs, batch size {recipe.batch_size}, on {device}")
    _check_memory(plan, free_memory())
    torch.manual_seed(recipe.seed)
    model = Network(plan)
    if source.endswith(".safetensors"):
        echo(f"starting from the weights of {source}: {load_weights(model, source)} tensors")
    model.to(device)
    progress = ConsoleLogger(console, recipe.epochs, echo)
    loggers: list[Logger] = [progress, CsvLogger(folder / "metrics.csv")]
    inputs = InputPath(plan.resolution, normalize, recipe.augment)
    try:
        kept, result = _fit_and_test(model, plan, (train, valid, dataset.test), recipe, inputs, loggers)
    finally:
        progress.close()
    if recipe.ema is not None:
        echo(f"test accuracy without the average {result['raw_test_accuracy']:.2%}")
    echo(f"test accuracy {result['test_accuracy']:.2%}, loss {result['test_loss']:.4f}", bold=True)
    result |= {"test_images": len(dataset.test), "data": data, "classes": dataset.classes} | _environment(device)
    _write(folder, plan, recipe, kept, result)


def _fit_and_test(
    model: Network,
    plan: Plan,
    sets: tuple[ImageSet, ImageSet, ImageSet],
    recipe: Recipe,
    inputs: InputPath,
    loggers: Sequence[Logger],
) -> tuple[nn.Module, dict[str, Any]]:
    """The module to keep, and what it came to; a loss that diverges and memory that runs out end it in one sentence."""
    import torch

    from ..train.engine import Diverged, evaluate, fit

    train, valid, test = sets
    try:
        fitted = fit(model, train, valid, recipe, inputs, loggers)
        score = evaluate(fitted.model, test, recipe.batch_size, inputs)
        raw = score if recipe.ema is None else evaluate(model, test, recipe.batch_size, inputs)
    except Diverged as error:
        raise fail(f"{error}; nothing was kept", EXIT_FAILURE) from None
    except torch.OutOfMemoryError:
        raise _out_of_memory(plan, recipe) from None
    return fitted.model, {
        "test_accuracy": score.accuracy,
        "test_loss": score.loss,
        "raw_test_accuracy": raw.accuracy,
        "valid_accuracy": fitted.history[-1].kept_accuracy,
        "train_seconds": sum(metrics.seconds for metrics in fitted.history),
    }


def _out_of_memory(plan: Plan, recipe: Recipe) -> typer.Exit:
    need = si(recipe.batch_size * analyze(plan).training_bytes_per_image, "B")
    message = f"out of memory: a batch of {recipe.batch_size} images keeps about {need}; nothing was kept"
    return fail(message, EXIT_FAILURE)


def _write(folder: Path, plan: Plan, recipe: Recipe, model: nn.Module, result: dict[str, Any]) -> None:
    """What the run was and made, beside the metrics that are there already."""
    from ..models.files import write_weights

    write_weights(model.state_dict(), plan, folder / "model.safetensors")
    (folder / "spec.yaml").write_text(plan.spec.to_yaml(), encoding="utf-8")
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _environment(device: torch.device) -> dict[str, object]:
    """What the last bit of a result may depend on."""
    import torch

    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "effnet_builder": __version__,
    }


def _check_memory(plan: Plan, free: int | None) -> None:
    """Refuse a network whose weights, gradients and momentum do not fit."""
    needed = 3 * analyze(plan).weight_bytes
    if free is not None and needed > free:
        message = f"weights, gradients and momentum need {si(needed, 'B')} of memory, {si(free, 'B')} are free"
        raise ConfigError([Problem(message, mark=Mark(plan.name))])


def _with_classes(plan: Plan, dataset: Dataset) -> Plan:
    """The plan with one output for each class of the data."""
    wanted, found = plan.num_classes, len(dataset.classes)
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
