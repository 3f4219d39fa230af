"""`train-arch`: a network from a spec, data, a recipe, and the shared trainer, composed into a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..arch.resolve import resolve
from ..config import ConfigError, Mark, Node, Problem, node_of, of_system, parse_assignments, parse_limits
from ..train.recipe import Recipe, load_recipe
from .console import (
    EXIT_FAILURE,
    LIMIT_OPTION,
    SPEC_ARGUMENT,
    VERSION_OPTION,
    application,
    fail,
    one_of_many,
    reporting,
    run,
    varied_spec,
)
from .order import Order
from .schema import schema_option
from .train_options import (
    DataOption,
    DeviceOption,
    EpochsOption,
    OnBadOption,
    RecipeOption,
    StorageOption,
    TimeoutOption,
    WorkersOption,
)

app = application()


@app.command()
def train_arch(
    spec: Annotated[str | None, SPEC_ARGUMENT] = None,
    data: DataOption = None,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Replace a value of the recipe: batch_size=64, optimizer.lr=0.1"
        ),
    ] = None,
    resolution: Annotated[float | None, typer.Option(help="Image size in px, instead of the spec's.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run directory.  [default: runs/SPEC-DATA-N]", show_default=False),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped or killed; needs no SPEC.")
    ] = None,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume", help="Go on with --out where it was begun, else start it: one command, again and again."
        ),
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Let a run go on with another recipe, or on other data.")
    ] = False,
    device: DeviceOption = None,
    storage: StorageOption = None,
    workers: WorkersOption = None,
    on_bad: OnBadOption = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="WEIGHTS", help="model.safetensors of the run to learn from; see distill.")
    ] = None,
    save_every: Annotated[
        int | None, typer.Option(min=1, metavar="STEPS", help="Save also within an epoch, not only after it.")
    ] = None,
    log_every: Annotated[
        int | None,
        typer.Option(min=1, metavar="STEPS", help="From one line of metrics.jsonl to the next.  [default: 20]"),
    ] = None,
    best: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the checkpoints of the N best epochs.  [default: 1]")
    ] = None,
    fit_batch: Annotated[
        bool, typer.Option("--fit-batch", help="Where a batch does not fit into memory, take it in parts that do.")
    ] = False,
    report: Annotated[
        bool | None,
        typer.Option(
            "--report/--no-report",
            help="Write report.html and pictures at the end.  [default: report]",
            show_default=False,
        ),
    ] = None,
    timeout: TimeoutOption = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Log for TensorBoard too.")] = None,
    wandb: Annotated[bool | None, typer.Option("--wandb", help="Log to Weights & Biases too.")] = None,
    limit: Annotated[list[str] | None, LIMIT_OPTION] = None,
    schema: Annotated[bool, schema_option("recipe")] = False,
    version: Annotated[bool, VERSION_OPTION] = False,
) -> None:
    """Train the network of a YAML spec, and test it.

    The classifier gets one output for each class of the data. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU
    finish the step and save the run; a second Ctrl-C or SIGTERM stops at once.
    The run directory holds spec, recipe, checkpoints, metrics, the weights and a report.

    \b
    train-arch efficientnet-pico
    train-arch efficientnet-pico --data folder:images --epochs 2 --out runs/first
    train-arch --resume runs/first
    torchrun --nproc-per-node 2 --no-python train-arch efficientnet-pico
    torchrun --nproc-per-node 2 --max-restarts 3 --no-python train-arch efficientnet-pico --out runs/first
    """  # noqa: D301 (the escape keeps the lines of the examples apart)
    with reporting("nothing was trained.", limit or ()):
        options: dict[str, Any] = {
            "data": data, "workers": workers, "save_every": save_every, "log_every": log_every, "best": best,
            "teacher": None if teacher is None else str(teacher), "tensorboard": tensorboard, "wandb": wandb,
            "report": report, "device": device and device.value, "storage": storage and storage.value,
            "on_bad": on_bad and on_bad.value, "timeout": timeout, "limits": parse_limits(limit or ()) or None,
        }  # fmt: skip
        changes = recipe_changes(epochs, assignments or ())
        from .resuming import restarted, to_be_restarted
        from .session import go_on, start, start_or_go_on

        if to_be_restarted() and out is None and resume is None:
            message = "needs --out RUN, or --resume RUN: processes that are started anew must know their run"
            raise ConfigError([Problem(message, mark=Mark("torchrun --max-restarts"))])
        try:
            if resume is not None:
                refused = {"SPEC": spec, "--out": out, "--resolution": resolution, "--auto-resume": auto_resume or None}
                _refuse([name for name, value in refused.items() if value is not None])
                session = go_on(resume, options, recipe, changes, accept_changes)
            elif spec is None:
                raise ConfigError([Problem("missing; expected a spec, or --resume RUN", mark=Mark("SPEC"))])
            else:
                plan = resolve(varied_spec(spec, resolution=resolution)[0])
                order = Order().vary(options)
                chosen = choose_recipe(recipe, order.data, changes)
                if out is not None and (auto_resume or restarted()):
                    session = start_or_go_on(plan, chosen, order, spec, out, accept_changes)
                elif auto_resume:
                    raise ConfigError([Problem("needs --out RUN", mark=Mark("--auto-resume"))])
                else:
                    session = start(plan, chosen, order, spec, out)
            session.train(fit_batch=fit_batch)
        except OSError as error:
            raise fail(of_system(error), EXIT_FAILURE, own=True) from None


def main() -> None:
    """Entry point of `train-arch`."""
    one_of_many()
    run(app, "train-arch")


def recipe_changes(epochs: int | None, assignments: list[str] | tuple[str, ...] = ()) -> dict[str, Node]:
    """`--epochs` and `--set` as values by path. Raises ConfigError."""
    changes = {} if epochs is None else {"epochs": node_of(epochs, Mark(f"--epochs {epochs}"))}
    settings, problems = parse_assignments(assignments, list(changes))
    if problems:
        raise ConfigError(problems)
    return changes | settings


def choose_recipe(recipe: str | None, data: str, changes: dict[str, Node]) -> Recipe:
    """The recipe of this name or file, else the one for the data; with values replaced. Raises ConfigError."""
    return load_recipe(recipe or ("digits" if data == "digits" else "small-images"), changes)


def _refuse(given: list[str]) -> None:
    """Options that say again what a run knows."""
    if given:
        mark = Mark("--resume")
        raise ConfigError(
            [Problem(f"goes on with the network of the run; leave out {name}", mark=mark) for name in given]
        )
