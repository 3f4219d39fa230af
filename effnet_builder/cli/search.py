"""`scale-arch --search`: the candidates of compound scaling as a table and as specs; trained on a proxy, and ranked."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..arch.candidates import Candidate, Grid, candidates
from ..arch.spec import ArchSpec
from ..arch.summary import align, si
from ..config import ConfigError, Mark, Problem
from ..files import write_atomic
from ..train.recipe import Recipe
from ..train.stopping import SIGNALS
from .compose import check_arithmetic, choose, validation_accuracy
from .console import EXIT_FAILURE, echo, fail
from .train import choose_recipe, recipe_changes

if TYPE_CHECKING:
    from ..search import Trained
    from ..train.data import Dataset

_KEPT = "what is trained is kept; the same command goes on with it"


def search_candidates(spec: ArchSpec, out: Path | None, step: float, tolerance: float) -> None:
    """Print the networks of the grid, and write each as a spec into the folder `out`. Raises ConfigError."""
    if out is not None and os.path.lexists(out) and not out.is_dir():
        raise ConfigError([Problem("exists already, and is not overwritten", mark=Mark(f"--out {out}"))])
    grid = candidates(spec, step=step, tolerance=tolerance)
    echo(_grid_table(spec, grid), lines=True)
    if out is not None:
        _write_specs(spec, grid, out, f"step {step:g}, tolerance {tolerance:g}")
        echo(f"wrote {len(grid.candidates)} specs into {out}", err=True)


def search_train(
    spec: ArchSpec,
    *,
    step: float,
    tolerance: float,
    data: str = "digits",
    recipe: str | None = None,
    epochs: int | None = None,
    study: str | None = None,
    study_name: str | None = None,
    device: str = "auto",
) -> None:
    """Train the networks of the grid on a proxy, together with all processes on the same study, and rank them.

    `study` is a file or the URL of a database. Raises ConfigError; typer.Exit or SystemExit where it is told to stop.
    """
    name = study_name or f"{spec.name}-{data.partition(':')[0]}"
    storage = study or str(Path("runs") / f"{name}.study")
    for one in SIGNALS:
        if one is not signal.SIGINT and signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, _terminate)
    try:
        _train_and_rank(
            spec, (step, tolerance), data, choose_recipe(recipe, data, recipe_changes(epochs)), storage, name, device
        )
    except OSError as error:
        raise fail(f"{error}; {_KEPT}", EXIT_FAILURE) from None
    except KeyboardInterrupt:
        raise fail(f"interrupted; {_KEPT}", 128 + signal.SIGINT) from None


def _terminate(number: int, _: object) -> None:
    # Not typer.Exit: the signal may arrive inside a library, and some catch every Exception.
    said = "terminated" if number == signal.SIGTERM else f"stopped by {signal.Signals(number).name}"
    raise SystemExit(fail(f"{said}; {_KEPT}", 128 + number).exit_code)


def _train_and_rank(
    spec: ArchSpec,
    rule: tuple[float, float],
    data: str,
    recipe: Recipe,
    storage: str,
    name: str,
    device_name: str,
) -> None:
    try:
        from ..search import SharedStudy, open_study, shown
        from .dataset import place_on_device
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; pip install 'effnet_builder[search]'"
        raise ConfigError([Problem(message, mark=Mark("--train"))]) from None
    device = choose(device_name)
    check_arithmetic(recipe, device)
    grid, dataset = _grid_and_data(spec, rule, data)
    dataset = place_on_device(dataset, device)
    made_for = {
        "spec": spec.to_yaml(),
        "recipe": recipe.to_yaml(),
        "data": f"{dataset.name}, {dataset.fingerprint}",
        "grid": "\n".join(f"{one}: {one.params} params, {one.macs} MACs" for one in grid.candidates),
    }
    echo(dataset.kept)
    shared = SharedStudy(open_study(storage, name, made_for), grid.candidates, echo)
    echo(f"study {name} in {shown(storage)}: {len(grid.candidates)} candidates, {len(shared.done())} of them trained")
    echo(f"{dataset.name}, recipe {recipe.name}, {recipe.epochs} epochs, batch size {recipe.batch_size}, on {device}")
    shared.work(lambda one: validation_accuracy(one.plan, dataset, recipe, device))
    echo(_ranking_table(shared.ranking()), lines=True)


def _grid_and_data(spec: ArchSpec, rule: tuple[float, float], data: str) -> tuple[Grid, Dataset]:
    """The data, read once at the largest size that a candidate takes, and the candidates with its classes."""
    from ..train.data import load_dataset

    step, tolerance = rule
    grid = candidates(spec, step=step, tolerance=tolerance)
    largest = max(one.resolution for one in grid.candidates)
    dataset = load_dataset(data, channels=spec.in_channels, size=largest, progress=lambda items, *_: items)
    for note in dataset.notes:
        echo(note, err=True)
    if len(dataset.classes) != spec.head.num_classes:
        echo(f"num_classes {spec.head.num_classes:,} -> {len(dataset.classes)}: those of {dataset.name}")
        spec = spec.vary({"head.num_classes": len(dataset.classes)})
        grid = candidates(spec, step=step, tolerance=tolerance)
    return grid, dataset


def _grid_table(spec: ArchSpec, grid: Grid) -> str:
    header = ("alpha", "beta", "gamma", "growth", "px", "params", "MACs", "twins")
    rows = [
        (*_point(one), f"{one.growth:.3f}", str(one.resolution), f"{one.params:,}", si(one.macs), _twins(one, 3))
        for one in grid.candidates
    ]
    found = f"{spec.name}: {len(rows)} networks at {grid.points} points of the grid"
    if grid.refused:
        found += f", of which {grid.refused} cannot be built"
    note = "growth: alpha * beta^2 * gamma^2. twins: other points, alpha/beta/gamma, that round to the same network."
    return "\n".join([*align(header, rows, left=0), "", note, found])


def _twins(one: Candidate, most: int) -> str:
    """The twins of a candidate, at most so many."""
    texts = [f"{alpha:g}/{beta:g}/{gamma:g}" for alpha, beta, gamma in one.twins]
    return " ".join([*texts[:most], *([f"+{len(texts) - most}"] if len(texts) > most else [])])


def _ranking_table(ranking: Sequence[Trained]) -> str:
    """Best first; the accuracy is that on the validation images."""
    header = ("rank", "accuracy", "alpha", "beta", "gamma", "px", "params", "MACs", "seconds")
    rows = [
        (
            str(rank),
            "diverged" if one.accuracy is None else f"{one.accuracy:.2%}",
            *_point(one.candidate),
            str(one.candidate.resolution),
            f"{one.candidate.params:,}",
            si(one.candidate.macs),
            f"{one.seconds:.1f}",
        )
        for rank, one in enumerate(ranking, start=1)
    ]
    note = "accuracy: on the validation images after the last epoch; where it is equal, fewer MACs come first."
    best = "every loss diverged" if ranking[0].accuracy is None else f"best: {ranking[0].candidate}"
    return "\n".join(["", *align(header, rows, left=0), "", note, best])


def _point(one: Candidate) -> tuple[str, str, str]:
    return f"{one.alpha:g}", f"{one.beta:g}", f"{one.gamma:g}"


def _write_specs(spec: ArchSpec, grid: Grid, folder: Path, rule: str) -> None:
    """Write each candidate into `folder`, whole; nothing where one of the files exists."""
    files = {folder / f"{one.spec.name}.yaml": one for one in grid.candidates}
    taken = [file for file in files if os.path.lexists(file)]
    mark = Mark(f"--out {folder}")
    if taken:
        raise ConfigError([Problem(f"{taken[0].name} exists already, and is not overwritten", mark=mark)])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, one in files.items():
            write_atomic(file, _header(spec, one, rule) + one.spec.to_yaml())
    except OSError as error:
        raise ConfigError([Problem(f"cannot be written: {error.strerror or error}", mark=mark)]) from None


def _header(spec: ArchSpec, one: Candidate, rule: str) -> str:
    """Where a written spec comes from, as a comment."""
    lines = [
        f"{one.spec.name}: {one.params:,} params, {one.macs:,} MACs at {one.resolution} px."
        f" Written by effnet_builder {__version__}.",
        f"{spec.name} grown by {one}: growth {one.growth:.4g} (scale-arch --search, {rule}).",
        *([f"The same network: {_twins(one, len(one.twins))}"] if one.twins else []),
    ]
    return "".join(f"# {line}\n" for line in lines)
