"""Trainings put together without a command line: tiny modules, tiny images, a saver in memory, loggers that look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effnet_builder.arithmetic import gradient_scaler
from effnet_builder.train.checkpoint import Checkpoint
from effnet_builder.train.ema import EmaModel
from effnet_builder.train.images import ImageSet, in_memory
from effnet_builder.train.job import Job
from effnet_builder.train.loading import Loader
from effnet_builder.train.loggers import TIMES, EpochMetrics, StepMetrics
from effnet_builder.train.optim import build_optimizer
from effnet_builder.train.processes import ALONE, Processes
from effnet_builder.train.recipe import Normalize, Recipe, load_recipe
from effnet_builder.train.state import Counters, State

CPU = torch.device("cpu")
PLAIN = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CLASSES = 6

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"type": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True},
    "sgd-plain": {"type": "sgd", "lr": 0.05, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    "adamw": {"type": "adamw", "lr": 0.01},
    "rmsprop-tf": {"type": "rmsprop", "lr": 0.003},
    "rmsprop-torch": {"type": "rmsprop", "lr": 0.003, "tf_eps": False},
    "muon": {"type": "muon", "lr": 0.02, "aux": {"type": "adamw", "lr": 0.01}},
}


def tiny_recipe(**changes: object) -> Recipe:
    """Two epochs of batches of four, without augmentation unless it is asked for."""
    return load_recipe("digits", {"epochs": 2, "batch_size": 4, "augment.crop_padding": 0} | changes)


def pictures(count: int = 18, size: int = 8, seed: int = 0) -> ImageSet:
    """Random images, the classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return in_memory(images, torch.arange(count) % CLASSES)


def linear(seed: int = 0) -> nn.Module:
    """No norm, no dropout: the gradient of a batch is the mean of those of its images."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def deep(seed: int = 0) -> nn.Module:
    """With a hidden weight matrix."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)
    )  # fmt: skip


def normed(seed: int = 0) -> nn.Module:
    """What our networks are made of: convolutions, one of them depthwise, batch norm, dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, CLASSES),
    )  # fmt: skip


def begin(
    model: nn.Module,
    recipe: Recipe,
    data: ImageSet | None = None,
    valid: ImageSet | None = None,
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
    fused: bool = False,
    processes: Processes = ALONE,
    device: torch.device = CPU,
    **settings: Any,
) -> tuple[State, Job]:
    """A state before its first step, and its job."""
    data = pictures() if data is None else data
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    job = Job(
        recipe, 8, PLAIN, CLASSES, Loader(data, device), Loader(data if valid is None else valid, device),
        processes.share(forward or model, device), device, processes, **settings,
    )  # fmt: skip
    lengths = {"steps_per_epoch": job.steps_per_epoch, "total_steps": job.steps_per_epoch * recipe.epochs}
    average = None if recipe.ema is None else EmaModel(model, recipe.ema, **lengths)
    optimizer = build_optimizer(recipe.optimizer, model, recipe.batch_size, fused=fused)
    return State(model, optimizer, gradient_scaler(recipe.precision, device), average, Counters(device)), job


def frozen_copy(state: State) -> Checkpoint:
    """The state as it is now, in tensors of its own and without what was measured with a clock."""
    checkpoint = state.checkpoint({})
    facts = {name: value for name, value in checkpoint.facts.items() if name != "clock"}
    facts["history"] = [
        {name: value for name, value in epoch.items() if name not in TIMES} for epoch in checkpoint.facts["history"]
    ]
    return Checkpoint({name: tensor.detach().clone() for name, tensor in checkpoint.tensors.items()}, facts)


def differences(one: Checkpoint, other: Checkpoint) -> list[str]:
    """The tensors and facts that are not the same to the last bit."""
    names = [*(one.tensors.keys() ^ other.tensors.keys()), *(one.facts.keys() ^ other.facts.keys())]
    names += [name for name in one.tensors.keys() & other.tensors.keys() if not bits(one, other, name)]
    names += [
        name for name in one.facts.keys() & other.facts.keys() if repr(one.facts[name]) != repr(other.facts[name])
    ]
    return sorted(names)


def bits(one: Checkpoint, other: Checkpoint, name: str) -> bool:
    """Whether a tensor has the same type, shape and bytes in both."""
    a, b = one.tensors[name], other.tensors[name]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return a.cpu().contiguous().numpy().tobytes() == b.cpu().contiguous().numpy().tobytes()


class Kept:
    """A saver in memory."""

    def __init__(self) -> None:
        self.checkpoints: list[Checkpoint] = []

    def save(self, state: State) -> None:
        checkpoint = state.checkpoint({})
        tensors = {name: tensor.detach().clone() for name, tensor in checkpoint.tensors.items()}
        self.checkpoints.append(Checkpoint(tensors, checkpoint.facts))

    def restore(self, state: State) -> None:
        state.load(self.checkpoints[-1])


class Told:
    """A logger that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[StepMetrics] = []
        self.epochs: list[EpochMetrics] = []
        self.back: list[int] = []

    def tick(self, step: int, steps: int) -> None: ...

    def step(self, metrics: StepMetrics) -> None:
        self.steps.append(metrics)

    def epoch(self, metrics: EpochMetrics) -> None:
        self.epochs.append(metrics)

    def go_back(self, step: int, history: Sequence[EpochMetrics]) -> None:
        self.back.append(step)

    def close(self) -> None: ...


class AtEachStep(Told):
    """Calls a function after each step."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self.look = look

    def tick(self, step: int, steps: int) -> None:
        self.look()


class Faulty:
    """A module whose input is, or whose gradient becomes, no number in some of its calls, counted from 0."""

    def __init__(self, model: nn.Module, calls: Sequence[int], *, of: str = "loss") -> None:
        self.model, self.calls, self.of, self.call = model, set(calls), of, -1

    def __call__(self, images: Tensor) -> Tensor:
        self.call += 1
        bad = self.call in self.calls
        logits: Tensor = self.model(images * float("nan") if bad and self.of == "loss" else images)
        if bad and self.of == "gradient":
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits
