"""What a network says of each image of a set, from which every figure of an evaluation is counted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

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


def predict_batch(logits: Tensor, labels: Tensor) -> Predictions:
    """The entries of a batch of logits (N, classes), where the logits are; computed in float32 or better."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    probabilities, top = logits.softmax(1).topk(min(TOP, logits.shape[1]), dim=1)
    losses = F.cross_entropy(logits, labels, reduction="none")
    return Predictions(labels, losses.float(), top, probabilities.float())
