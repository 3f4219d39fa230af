"""What a network says of each image of a set, from which every figure of an evaluation is counted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arithmetic import autocast
from ..failures import is_out_of_memory, release_memory
from ..precisions import Precision
from .augment import InputPath
from .evaluation import Views, averaged_logits
from .loading import Loader
from .processes import ALONE, Processes
from .stopping import Stopped, StopRequest

TOP = 5


@dataclass(frozen=True)
class Predictions:
    """One entry for each of N images, on the CPU, in the order of the set."""

    labels: Tensor  # (N,) int64
    losses: Tensor  # (N,) float32, cross entropy in nats
    top: Tensor  # (N, K) int64, the classes by falling probability; K is 5, or the number of classes if smaller
    probabilities: Tensor  # (N, K) float32, of those classes

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Evaluation:
    """How images reach a network that is not trained: path, batch size, precision, views, processes."""

    inputs: InputPath
    batch_size: int
    precision: Precision = "fp32"
    channels_last: bool = True
    views: Views = "none"
    processes: Processes = ALONE


@torch.no_grad()
def predict(model: nn.Module, loader: Loader, how: Evaluation, stop: StopRequest | None = None) -> Predictions:
    """The predictions for every image, each made once.

    Batches are the same ones however many processes share them, so that the results are, too. Raises Stopped.
    """
    model.eval()
    device, processes = loader.device, how.processes
    batches = torch.arange(len(loader.data)).split(how.batch_size)
    mine = batches[processes.rank :: processes.count]
    found: list[Predictions] = []
    most = how.batch_size
    loaded = loader.batches(mine)
    try:
        for _ in range(-(-len(batches) // processes.count)):  # as often in every process: all must ask at once
            if stop is not None and stop.anywhere(processes):
                raise Stopped
            item = next(loaded, None)
            if item is not None:
                images, labels, _ = item
                logits, most = _within_memory(model, images, how, most)
                found.append(predict_batch(logits, labels))
    finally:
        loaded.close()
    return _assembled(found, mine, len(loader.data), device, processes)


def _within_memory(model: nn.Module, images: Tensor, how: Evaluation, most: int) -> tuple[Tensor, int]:
    """Return `infer`, `most` images at a time, and how many that was: half as often as memory runs out, and says so.

    Each image is predicted by itself, so that its logits change by rounding at most.
    """
    while True:
        try:
            return torch.cat([infer(model, part, how) for part in images.split(most)]), most
        except (RuntimeError, MemoryError) as error:
            if most == 1 or not is_out_of_memory(error):
                raise
        most = -(-min(most, len(images)) // 2)
        release_memory()  # out here, where no frame of the error holds tensors
        warnings.warn(f"the evaluation ran out of memory; it continues with {most} images at a time", stacklevel=3)


@torch.no_grad()
def infer(model: nn.Module, images: Tensor, how: Evaluation) -> Tensor:
    """Logits (N, classes) for stored images, uint8 (N, C, H, W) on the model's device."""
    x = how.inputs.evaluate(images)
    if how.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with autocast(how.precision, images.device):
        return averaged_logits(model, x, how.views)


def rank(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The classes by falling probability, at most five, and these; computed in float32 or better."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    probabilities, top = logits.softmax(1).topk(min(TOP, logits.shape[1]), dim=1)
    return top, probabilities.float()


def predict_batch(logits: Tensor, labels: Tensor) -> Predictions:
    """The entries of a batch of logits (N, classes), where the logits are; computed in float32 or better."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return Predictions(labels, F.cross_entropy(wide, labels, reduction="none").float(), *rank(logits))


def _assembled(
    found: list[Predictions], batches: tuple[Tensor, ...], count: int, device: torch.device, processes: Processes
) -> Predictions:
    """The parts of all processes in the order of the set; each entry is one process's, zero in the others."""
    width = processes.most(found[0].top.shape[1] if found else 0)
    labels = torch.zeros(count, dtype=torch.int64, device=device)
    losses = torch.zeros(count, device=device)
    top = torch.zeros(count, width, dtype=torch.int64, device=device)
    probabilities = torch.zeros(count, width, device=device)
    for part, index in zip(found, batches, strict=True):
        rows = slice(int(index[0]), int(index[-1]) + 1)
        labels[rows], losses[rows] = part.labels, part.losses
        top[rows], probabilities[rows] = part.top, part.probabilities
    for values in (labels, losses, top, probabilities):
        processes.sum_(values)
    return Predictions(labels.cpu(), losses.cpu(), top.cpu(), probabilities.cpu())
