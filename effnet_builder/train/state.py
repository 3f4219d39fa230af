"""What a step changes, and so all that a checkpoint must hold: nothing random, no schedule, no place in the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint
from .ema import EmaModel
from .loggers import EpochMetrics


@dataclass
class Clock:
    """Seconds of the current epoch: of training, and of those the ones spent waiting for data."""

    training: float = 0.0
    waiting: float = 0.0


@dataclass
class State:
    """A training after `step` optimizer steps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: EmaModel | None
    counters: Counters
    step: int = 0
    went_back: bool = False  # to a checkpoint, after steps whose loss was no number
    history: list[EpochMetrics] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def checkpoint(self, facts: Mapping[str, Any]) -> Checkpoint:
        """Everything here, and what else the caller has to say."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{key}.{name}"] = value
        tensors["counters"] = self.counters.sums
        own = {
            "step": self.step,
            "went_back": self.went_back,
            "history": [asdict(metrics) for metrics in self.history],
            "clock": asdict(self.clock),
            "scaler": self.scaler.state_dict(),
        }
        return Checkpoint(tensors, {**facts, **own})

    def load(self, checkpoint: Checkpoint) -> None:
        """Become what was saved, but with the recipe's learning rates and the like. Raises RuntimeError, KeyError."""
        tensors, facts = checkpoint.tensors, checkpoint.facts
        self.model.load_state_dict(checkpoint.part("model."))
        if self.average is not None:
            self.average.load_state_dict(checkpoint.part("ema."))
        self._load_optimizer(checkpoint.part("optimizer."))
        self.counters.sums.copy_(tensors["counters"])
        self.step, self.went_back = facts["step"], facts["went_back"]
        self.history = [EpochMetrics(**metrics) for metrics in facts["history"]]
        self.clock = Clock(**facts["clock"])
        self.scaler.load_state_dict(facts["scaler"])

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        found: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            key, _, name = path.partition(".")
            found.setdefault(name, {})[key] = tensor
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        saved = self.optimizer.state_dict()  # groups and their numbers, which are the recipe's
        numbers = [number for group in saved["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        saved["state"] = {
            number: {key: _laid_out_as(parameter, tensor) for key, tensor in found[names[parameter]].items()}
            for number, parameter in zip(numbers, parameters, strict=True)
            if names[parameter] in found
        }
        self.optimizer.load_state_dict(saved)


class Counters:
    """Sums that stay on the device, so that the loop need not wait for it.

    Of the epoch, of the steps since the last report, and of steps skipped because their loss or gradient was no number.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(9, device=device, dtype=torch.float64)
        self.epoch, self.window = self.sums[0:3], self.sums[3:6]  # loss, right answers, images
        self.skipped = self.sums[6:9]  # in all, in a row, the longest row

    def add(self, counted: Tensor, bad: Tensor) -> None:
        """A step with its (loss, right, images), which count only if it is not bad."""
        counted = torch.where(bad, torch.zeros_like(counted), counted)
        self.epoch += counted
        self.window += counted
        total, row, longest = self.skipped
        row = (row + 1) * bad
        self.skipped.copy_(torch.stack([total + bad, row, torch.maximum(longest, row)]))


def _laid_out_as(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
    # A file has no strides; other ones would make the next step round otherwise.
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
