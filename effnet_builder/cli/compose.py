"""Where a network, a recipe and data meet: they are made to fit each other, and become what the trainer takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..arch.plan import Plan
from ..arch.resolve import resolve
from ..config import ConfigError, Mark, Problem
from ..train.recipe import Normalize, Recipe
from .console import EXIT_FAILURE, echo, fail
from .order import Order

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..models.network import Network
    from ..train.data import Dataset, ImageSet
    from ..train.distill import Teacher
    from ..train.job import Job
    from ..train.loggers import Logger
    from ..train.processes import Processes
    from ..train.state import State


@dataclass(frozen=True)
class Material:
    """A network, a recipe and data that fit each other."""

    plan: Plan
    recipe: Recipe
    dataset: Dataset
    train: ImageSet
    valid: ImageSet
    eval_batch: int | None = None  # images evaluated at a time; None for those of a micro-batch

    @property
    def normalize(self) -> Normalize:
        """Mean and std of the images, which are known by now."""
        assert self.recipe.normalize is not None
        return self.recipe.normalize


def fit_together(plan: Plan, recipe: Recipe, dataset: Dataset) -> Material:
    """One output for each class; the recipe's mean and std, measured if need be, in the spec too; dropout as it says.

    Raises ConfigError.
    """
    from ..train.augment import measure_normalization
    from ..train.data import split

    if len(dataset.classes) < 2:
        message = f"has one class, {dataset.classes[0]}; there is nothing to tell it from"
        raise ConfigError([Problem(message, mark=Mark(dataset.name))])
    train, valid = split(dataset.train, recipe.valid_fraction, recipe.seed)
    normalize = given_normalization(recipe, plan.in_channels) or measure_normalization(train)
    changes: dict[str, object] = {"normalization": {"mean": normalize.mean, "std": normalize.std}}
    if recipe.dropout is not None:
        changes["head.dropout"] = recipe.dropout
    if recipe.drop_path_rate is not None:
        changes["drop_path.rate"] = recipe.drop_path_rate
    wanted, found = plan.num_classes, len(dataset.classes)
    if wanted != found:
        changes["head.num_classes"] = found
        echo(f"num_classes {wanted:,} -> {found}: {dataset.name} has {found} classes")
    return Material(resolve(plan.spec.vary(changes)), recipe.vary({"normalize": normalize}), dataset, train, valid)


def new_model(plan: Plan, recipe: Recipe, device: torch.device, processes: Processes | None = None) -> Network:
    """The network with new weights, which follow from the seed of the recipe. Raises ConfigError.

    With `sync_batch_norm`, its norms take their statistics over all processes.
    """
    import torch

    from ..models.network import Network
    from ..train.device import to_device
    from ..train.norms import synchronize_norms
    from .memory import check_weights

    check_weights(plan)
    torch.manual_seed(recipe.seed)
    model = Network(plan)
    to_device(model, device, channels_last=recipe.channels_last)
    if recipe.sync_batch_norm and processes is not None and processes.count > 1:
        synchronize_norms(model)
    return model


def assemble(
    model: nn.Module,
    material: Material,
    device: torch.device,
    *,
    processes: Processes | None = None,
    teacher: Teacher | None = None,
    loggers: Sequence[Logger] = (),
    workers: int = 0,
    timeout: float = Order.timeout,
    **settings: Any,
) -> tuple[State, Job]:
    """A state before its first step, and the job to do on it. Raises ConfigError where the job cannot be done."""
    from ..arithmetic import gradient_scaler
    from ..train.batches import smallest_share
    from ..train.ema import EmaModel
    from ..train.job import Job
    from ..train.loading import Loader
    from ..train.numerics import compiled
    from ..train.optim import build_optimizer
    from ..train.processes import ALONE
    from ..train.state import Counters, State

    recipe, processes = material.recipe, processes or ALONE
    count = min(recipe.batch_size, len(material.train))
    if smallest_share(count, processes.count, recipe.accumulate) < 2:
        parts = f"{processes.count} processes and {recipe.accumulate} micro-batches"
        message = f"batches of {count} images do not give each of {parts} the two images that batch norm needs"
        raise recipe.error([Problem(message, ("batch_size",))])
    called = compiled(model) if recipe.compile else model
    job = Job(
        recipe,
        material.plan.resolution,
        material.normalize,
        len(material.dataset.classes),
        Loader(material.train, device, workers, timeout),
        Loader(material.valid, device, workers, timeout),
        processes.share(called, device),
        device,
        processes,
        teacher,
        loggers if processes.first else (),
        eval_batch=material.eval_batch,
        **settings,
    )
    steps = job.steps_per_epoch
    lengths = {"steps_per_epoch": steps, "total_steps": steps * recipe.epochs}
    optimizer = build_optimizer(recipe.optimizer, model, recipe.batch_size, fused=device.type == "cuda")
    average = None if recipe.ema is None else EmaModel(model, recipe.ema, **lengths)
    state = State(model, optimizer, gradient_scaler(recipe.precision, device), average, Counters(device))
    return state, job


def validation_accuracy(plan: Plan, dataset: Dataset, recipe: Recipe, device: torch.device) -> float | None:
    """Train new weights as train-arch does: accuracy on the validation images, None where the loss diverged.

    Raises ConfigError, also for a batch that does not fit into memory: in parts it would be another training.
    """
    from ..train.engine import Diverged, fit
    from ..train.numerics import numerics
    from ..train.processes import ALONE
    from ..train.stopping import StopRequest
    from .memory import NotEnoughMemory, explaining_memory, fit_into_memory

    check_arithmetic(recipe, device)
    material = fit_together(plan, recipe, dataset)
    try:
        with explaining_memory(material, ALONE), numerics(recipe, device):
            model = new_model(material.plan, recipe, device)
            material = fit_into_memory(model, material, device, ALONE, split=False)
            state, job = assemble(model, material, device)
            fit(state, job, None, StopRequest())
    except Diverged:
        return None
    except NotEnoughMemory as error:
        raise fail(f"{error}", EXIT_FAILURE) from None
    return state.history[-1].kept_accuracy


def check_arithmetic(recipe: Recipe, device: torch.device) -> None:
    """Raise ConfigError for a precision that the device does not have."""
    from ..arithmetic import check_precision

    try:
        check_precision(recipe.precision, device)
    except ValueError as error:
        raise recipe.error([Problem(f"{error}", ("precision",))]) from None


def choose(name: str) -> torch.device:
    """The device of `--device`; of several, the one of this process."""
    import torch

    from ..train.device import choose_device
    from ..train.processes import local_rank

    try:
        return choose_device(name, local_rank())
    except ValueError as error:
        own = torch.cuda.is_available() or local_rank() == 0  # all lack a device, or those that are too many
        raise fail(f"--device {name}: {error}", own=own) from None


def normalization_of(plan: Plan, mark: Mark) -> Normalize | None:
    """The mean and std of a spec, if it has any; they must be for as many channels as the network takes."""
    said = plan.spec.normalization
    if said is None:
        return None
    if len(said.mean) != plan.in_channels:
        message = f"normalizes {len(said.mean)} channels, and its network takes {plan.in_channels}"
        raise ConfigError([Problem(message, mark=mark)])
    return Normalize(mean=said.mean, std=said.std)


def given_normalization(recipe: Recipe, channels: int) -> Normalize | None:
    """The recipe's mean and std, if it has any; they must be for as many channels as the network takes."""
    given = recipe.normalize
    if given is not None and len(given.mean) != channels:
        raise recipe.error([Problem(f"has {len(given.mean)} channels, the network takes {channels}", ("normalize",))])
    return given
