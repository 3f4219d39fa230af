"""A trained network as the other commands take it: a run directory, or the weights that effnet_builder wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from ..arch.plan import Plan
from ..arch.resolve import resolve
from ..arch.spec import load_spec
from ..config import ConfigError, Mark, Problem
from ..models.files import check_claim, load_weights
from ..models.network import Network
from ..train.augment import InputPath
from ..train.augment_settings import Augment
from ..train.checkpoint import Checkpoint, Damaged
from ..train.predictions import Evaluation
from ..train.recipe import Normalize, Recipe, load_recipe
from ..train.run import Run
from ..train.stages import evaluation
from .compose import normalization_of
from .order import Order, recorded

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Trained:
    """A network with its weights, in evaluation, and what is known of its training."""

    model: nn.Module
    plan: Plan
    normalize: Normalize
    classes: tuple[str, ...] | None  # the names of its outputs
    recipe: Recipe | None  # of a run
    order: Order | None  # of a run
    weights: str  # where they come from, in words

    def name(self, index: int) -> str:
        """Of a class."""
        return str(index) if self.classes is None else self.classes[index]


def load_trained(path: Path, checkpoint: str = "kept", *, raw: bool = False) -> Trained:
    """The network of a run, or of a .safetensors file.

    `checkpoint` is `kept` (what the run ended with), `last`, `best` or a step; of a checkpoint, `raw` asks for the
    network itself where there is an average of it. Raises ConfigError.
    """
    mark = Mark(str(path))
    if path.is_file():
        if checkpoint != "kept" or raw:
            raise ConfigError([Problem("is no run directory, and so has no checkpoints", mark=mark)])
        return _from_weights(path, mark)
    run = Run(path)
    if not run.recipe.exists():
        raise ConfigError([Problem("is neither a run directory nor a .safetensors file", mark=mark)])
    recipe, plan = load_recipe(run.recipe), resolve(load_spec(run.spec))
    written = recorded(run)
    classes = written.data["classes"]
    if len(classes) != plan.num_classes:
        message = f"its run.json names {len(classes)} classes, its spec.yaml has {plan.num_classes}"
        raise ConfigError([Problem(message, mark=mark)])
    if recipe.normalize is None:
        raise ConfigError([Problem("its recipe.yaml has no normalize, as a run's has", mark=mark)])
    model = Network(plan)
    if checkpoint == "kept" and not raw:
        if not run.weights.exists():
            message = "is not done, and has kept no weights; --checkpoint last takes those of its last checkpoint"
            raise ConfigError([Problem(message, mark=mark)])
        load_weights(model, run.weights)
        weights = "the weights that it kept"
    else:
        found = _checkpoint(run, "last" if checkpoint == "kept" else checkpoint, mark)
        average = not raw and any(name.startswith("ema.") for name in found.tensors)
        try:
            model.load_state_dict(found.part("ema." if average else "model."))
            weights = f"{'the average' if average else 'the weights'} of step {found.facts['step']:,}"
        except (RuntimeError, KeyError, ValueError) as error:
            message = f"its checkpoint does not fit its spec.yaml: {str(error).splitlines()[0]}"
            raise ConfigError([Problem(message, mark=mark)]) from None
    return Trained(model.eval(), plan, recipe.normalize, classes, recipe, written.order, weights)


def how_to_evaluate(trained: Trained, batch_size: int | None = None) -> Evaluation:
    """As the run validated; a file of weights in fp32, without a crop of the centre."""
    recipe = trained.recipe
    if recipe is None:
        inputs = InputPath(trained.plan.resolution, trained.normalize, Augment())
        return Evaluation(inputs, batch_size or _BATCH_SIZE)
    how = evaluation(recipe, trained.plan.resolution, trained.normalize)
    return how if batch_size is None else replace(how, batch_size=batch_size)


def _from_weights(path: Path, mark: Mark) -> Trained:
    plan = resolve(load_spec(path))
    normalize = normalization_of(plan, mark)
    if normalize is None:
        raise ConfigError([Problem("does not say by which mean and std its images are normalized", mark=mark)])
    check_claim(path)
    model = Network(plan)
    load_weights(model, path)
    try:
        with safe_open(path, "pt") as opened:
            names = json.loads((opened.metadata() or {}).get("classes", "null"))
    except (SafetensorError, ValueError, RecursionError):
        names = None
    classes = tuple(map(str, names)) if isinstance(names, list) and len(names) == plan.num_classes else None
    return Trained(model.eval(), plan, normalize, classes, None, None, "its weights")


def _checkpoint(run: Run, which: str, mark: Mark) -> Checkpoint:
    """`last`, `best` or the one of a step. Raises ConfigError."""
    steps = run.checkpoints.steps()
    if not steps:
        raise ConfigError([Problem("has no checkpoints", mark=mark)])
    try:
        if which == "last":
            return run.checkpoints.at(steps[0])
        if which == "best":
            history = run.checkpoints.at(steps[0]).facts.get("history")
            if not history:
                raise ConfigError([Problem("no epoch of it is validated yet", mark=mark)])
            key = "ema_accuracy" if history[0]["ema_accuracy"] is not None else "valid_accuracy"
            return run.checkpoints.at(max(history, key=lambda epoch: float(epoch[key]))["step"])
        if which.isdecimal() and int(which) in steps:
            return run.checkpoints.at(int(which))
    except Damaged as error:
        raise ConfigError([Problem(f"{error}", mark=mark)]) from None
    except (KeyError, TypeError, ValueError):  # forged: none of ours is so
        raise ConfigError([Problem("its last checkpoint does not say which epoch is the best", mark=mark)]) from None
    there = ", ".join(map(str, reversed(steps)))
    message = f"no such checkpoint; expected kept, last, best, or one of the steps {there}"
    raise ConfigError([Problem(message, mark=Mark(f"--checkpoint {which}"))])
