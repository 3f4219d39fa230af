"""One run, from its first step or its last checkpoint to its end: what `train-arch` does between options and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
import typer
from rich.console import Console

from ..arch.analysis import analyze
from ..arch.plan import Plan
from ..arch.resolve import resolve
from ..arch.spec import load_spec
from ..arch.summary import summary_data, totals_line
from ..config import ConfigError, Mark, Node, Problem, limits, of_system, printable
from ..escaping import shell_command
from ..failures import first_line, is_device_failure
from ..files import write_atomic
from ..models.files import load_weights
from ..models.network import Network
from ..train.allocator import keep_freed_memory
from ..train.checkpoint import Damaged
from ..train.company import Lost
from ..train.data import DataError
from ..train.engine import Diverged, fit
from ..train.loggers import ConsoleLogger, CsvLogger, Logger, Tolerant
from ..train.numerics import numerics
from ..train.ownership import Busy, own_either, own_new, own_next, owning
from ..train.processes import Processes, processes
from ..train.recipe import Recipe, load_recipe
from ..train.run import Run
from ..train.saving import RunSaver
from ..train.sinks import JsonlLogger, TensorBoardLogger, WandbLogger
from ..train.stopping import Stopped, StopRequest
from .compose import Material, assemble, check_arithmetic, choose, fit_together, new_model
from .console import EXIT_FAILURE, EXIT_MISTAKE, echo, fail, leave, warn
from .dataset import read_data
from .finish import finish
from .memory import NotEnoughMemory, explaining_memory, fit_into_memory
from .order import Order, record, recorded
from .resuming import as_before, facts, refuse_foreign, restarted, restore
from .teaching import teacher_of

if TYPE_CHECKING:
    from ..train.distill import Teacher

Stage: TypeAlias = Literal["new", "begun", "done"]
_PATIENCE = 30.0  # seconds


@dataclass(frozen=True)
class Session:
    """A run to be started, or one to go on with."""

    plan: Plan
    recipe: Recipe
    order: Order
    source: str | None  # the spec as it was named, but not of a run to go on with
    target: Path | None  # the run directory; None for the next free number
    way: Literal["start", "go on", "either"] = "start"
    accept_changes: bool = False

    def train(self, *, fit_batch: bool) -> None:
        """Train to the end and write the results. Raises ConfigError, OSError; ends the process where it is stopped."""
        stop, run = StopRequest(at_once=True), None
        device = choose(self.order.device)
        try:
            with (
                limits(**self.order.limits), processes(device, self.order.timeout) as who, stop.listening(),
                ExitStack() as owned,
            ):  # fmt: skip
                run, stage = self._own(who, owned)
                if stage != "done":
                    self._train(run, stage == "begun", device, who, stop, fit_batch)
        except Lost as lost:
            leave(f"{lost}" if run is None else f"{lost}{_where(run)}{_hint(run)}")
        name = printable(str(run.folder))
        echo(f"{name} is done; its weights are in model.safetensors" if stage == "done" else f"wrote {name}", bold=True)

    def _train(
        self, run: Run, begun: bool, device: torch.device, who: Processes, stop: StopRequest, fit_batch: bool
    ) -> None:
        try:
            _train(self, run, begun, device, who, stop, fit_batch)
        except (Stopped, SystemExit):
            assert stop.signal is not None
            raise fail(f"stopped by {stop.signal.name}{_where(run)}{_hint(run)}", 128 + stop.signal) from None
        except Diverged as error:
            raise fail(f"{error}{_where(run)}", EXIT_FAILURE) from None
        except (DataError, Damaged) as error:
            raise fail(f"{error}{_where(run)}", EXIT_FAILURE, own=True) from None
        except OSError as error:
            raise fail(f"{of_system(error)}{_where(run)}", EXIT_FAILURE, own=True) from None
        except NotEnoughMemory as error:
            raise fail(f"{error}{_where(run)}{_hint(run)}", EXIT_FAILURE, own=True) from None
        except (RuntimeError, MemoryError) as error:
            if not is_device_failure(error):
                raise
            # At once: whatever ends in the usual way asks the device for something.
            leave(f"{device} failed{who.place}: {first_line(error)}{_where(run)}{_hint(run)}")

    def _own(self, who: Processes, owned: ExitStack) -> tuple[Run, Stage]:
        """The run directory, which the first process finds or makes, and locks. Raises ConfigError, OSError."""
        who.at("opening the run directory")
        found: tuple[str, Stage] | None = None
        try:
            if who.first:
                found = self._open(owned)
        finally:  # the others are told of an error, too
            who.meet()
            found = who.tell(found)
        if found is None:
            raise typer.Exit(EXIT_MISTAKE)  # the first process has said why
        return Run(Path(found[0])), found[1]

    def _open(self, owned: ExitStack) -> tuple[str, Stage]:
        patience = _PATIENCE if restarted() else 0  # there may still be one that is on its way out
        if self.target is None:
            run = own_next(Path("runs"), f"{self.plan.name}-{self.order.data.partition(':')[0]}", owned)
        elif self.way == "start":
            with _mistakes_of(self.target):
                run = own_new(self.target, owned)
        elif self.way == "either":
            refuse_foreign(Run(self.target))
            with _mistakes_of(self.target):
                run = own_either(self.target, owned, patience)
        else:
            run = Run(self.target)
            refuse_foreign(run)
            owned.enter_context(owning(run, patience))
        if run.done:
            return str(run.folder), "done"
        run.clean()
        return str(run.folder), "begun" if self.way == "go on" or run.checkpoints.steps() else "new"


def start(plan: Plan, recipe: Recipe, order: Order, source: str, target: Path | None) -> Session:
    """A new run."""
    return Session(plan, recipe, order.anchored(), source, target)


def start_or_go_on(
    plan: Plan, recipe: Recipe, order: Order, source: str, target: Path, accept_changes: bool
) -> Session:
    """The run in a directory, where it was begun and has a checkpoint; else a new run there."""
    return Session(plan, recipe, order.anchored(), source, target, "either", accept_changes)


def go_on(
    target: Path, options: Mapping[str, Any], recipe: str | None, changes: Mapping[str, Node], accept_changes: bool
) -> Session:
    """The run in a directory, with options and values of the recipe replaced. Raises ConfigError."""
    run, mark = Run(target), Mark(f"--resume {target}")
    if not run.recipe.exists():
        raise ConfigError([Problem("is no run directory: it has no recipe.yaml", mark=mark)])
    if run.done and not restarted():
        raise ConfigError([Problem("is done; its weights are in model.safetensors", mark=mark)])
    order = recorded(run).order.vary(options).anchored()
    with limits(**order.limits):
        plan = resolve(load_spec(run.spec))
        return Session(plan, load_recipe(recipe or run.recipe, changes), order, None, target, "go on", accept_changes)


@contextmanager
def _mistakes_of(target: Path) -> Iterator[None]:
    """Let an OSError of the directory be the option's mistake, unless another process has it."""
    try:
        yield
    except Busy:
        raise
    except OSError as error:
        reason = error.strerror if error.errno else error
        raise ConfigError([Problem(f"{reason}", mark=Mark(f"--out {target}"))]) from None


def _train(
    session: Session, run: Run, begun: bool, device: torch.device, who: Processes, stop: StopRequest, fit_batch: bool
) -> None:
    order = session.order
    if device.type == "cpu":
        keep_freed_memory()
    if begun:
        as_before(run, device, who)
    check_arithmetic(session.recipe, device)
    with numerics(session.recipe, device):
        model, material, teacher = _prepare(session, device, who, fit_batch, begun)
        with explaining_memory(material, who):
            saver = RunSaver(run.checkpoints, facts(material), echo, best=order.best, processes=who)
            state, job = assemble(
                model, material, device, processes=who, teacher=teacher, workers=order.workers,
                loggers=_loggers(run, material, order) if who.first else (), log_every=order.log_every,
                save_every=order.save_every, timeout=order.timeout,
            )  # fmt: skip
            try:
                if begun:
                    mark = Mark(f"--{'resume' if session.way == 'go on' else 'out'} {run.folder}")
                    restore(run, saver, state, facts(material), mark, session.accept_changes)
                if who.first:
                    _write(run, material, order, device, who, begun)
                stop.at_once = False
                fit(state, job, saver, stop)
            finally:
                for logger in job.loggers:
                    logger.close()
            finish(run, state, job, material, order, stop)


def _prepare(
    session: Session, device: torch.device, who: Processes, fit_batch: bool, begun: bool
) -> tuple[Network, Material, Teacher | None]:
    """The network on the device, and what else it takes, in batches that fit into the memory. Raises ConfigError."""
    plan, recipe = session.plan, session.recipe
    who.at("reading data")
    material = fit_together(plan, recipe, read_data(session.order, plan, recipe.eval_crop, device))
    who.meet()
    who.at("preparing the first step")
    _introduce(material, device, who)
    with explaining_memory(material, who):
        teacher = teacher_of(session.order.teacher, material, device)
        model = new_model(material.plan, recipe, device, who)
        material = fit_into_memory(model, material, device, who, split=fit_batch, teacher=teacher)
    if session.source is not None and session.source.endswith(".safetensors") and not begun:
        count = load_weights(model, session.source)
        echo(f"starting from the weights of {session.source}: {count} tensors")
    return model, material, teacher


def _introduce(material: Material, device: torch.device, who: Processes) -> None:
    """What is trained, on what, how and where."""
    plan, recipe, dataset = material.plan, material.recipe, material.dataset
    echo(totals_line(plan, analyze(plan)))
    counts = (
        f"{len(material.train):,} images to train, {len(material.valid):,} to validate, {len(dataset.test):,} to test"
    )
    echo(f"{dataset.name}: {counts}")
    if dataset.ignored:
        echo(f"{dataset.ignored:,} files are left out: their names are not those of images", err=True)
    for note in dataset.notes:
        echo(printable(note), err=True)
    echo(dataset.kept)
    many = f", in {who.count} processes" if who.count > 1 else ""
    echo(f"recipe {recipe.name}, {recipe.epochs} epochs, batch size {recipe.batch_size}, on {device}{many}")


def _write(run: Run, material: Material, order: Order, device: torch.device, who: Processes, resumed: bool) -> None:
    """What the run is, before its first step."""
    write_atomic(run.spec, material.plan.spec.to_yaml())
    write_atomic(run.recipe, material.recipe.to_yaml())
    run.write_json("plan.json", summary_data(material.plan, analyze(material.plan)))
    written = record(order, material.dataset, device, who.count)
    if resumed:  # the first start stays on record
        before = run.read_json("run.json")
        parts = [*before.get("resumed", []), {key: written[key] for key in ("environment", "command", "git")}]
        written = {**before, "order": written["order"], "resumed": parts}
    run.write_json("run.json", written)


def _loggers(run: Run, material: Material, order: Order) -> list[Logger]:
    recipe = material.recipe
    loggers: list[Logger] = [
        ConsoleLogger(Console(highlight=False), recipe.epochs, echo),
        CsvLogger(run.folder),
        JsonlLogger(run.folder / "metrics.jsonl"),
    ]
    if order.tensorboard:
        loggers.append(TensorBoardLogger(run.folder / "tensorboard"))
    if order.wandb:
        settings = {"spec": material.plan.spec.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json")}
        loggers.append(WandbLogger(run.folder.name, settings, run.folder))
    return [Tolerant(logger, warn) for logger in loggers]


def _where(run: Run) -> str:
    if run.done:
        return f"; {printable(str(run.folder))} is done"
    steps = run.checkpoints.steps()
    return f"; step {steps[0]:,} is saved" if steps else "; nothing was kept"


def _hint(run: Run) -> str:
    command = shell_command("train-arch", "--resume", run.folder)
    return f"; to go on: {command}" if run.checkpoints.steps() and not run.done else ""
