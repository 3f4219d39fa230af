"""The figures of an evaluation, counted from what a network said of each image."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .predictions import TOP, Predictions

BINS = 15


@dataclass(frozen=True)
class ClassMetrics:
    """How well one class is found. `support` counts its images; a quotient of nothing by nothing is 0."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose first answer has a probability above `low` and up to `high`; without any, the means are None."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Metrics:
    """Figures over `count` images; shares are from 0 to 1, the loss is in nats.

    The macro averages are over the classes that are the truth or the answer of some image; balanced accuracy is the
    mean recall of those that have images. Both are scikit-learn's.
    """

    count: int
    loss: float
    top1: float
    top5: float  # or of the first K, where there are only K < 5 classes
    macro_precision: float
    macro_recall: float
    macro_f1: float
    balanced_accuracy: float
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]
    classes: tuple[ClassMetrics, ...]
    confusion: Tensor  # (classes, classes) int64: rows are true, columns predicted

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON; a loss that is not finite is None."""
        data = asdict(self)
        data["loss"] = self.loss if math.isfinite(self.loss) else None
        return data | {"reliability": list(data["reliability"]), "classes": list(data["classes"]),
                       "confusion": self.confusion.tolist()}  # fmt: skip


def measure(predictions: Predictions, num_classes: int) -> Metrics:
    """Count the figures; the same for any number of threads. Raises ValueError without images or for other classes."""
    count, labels, first = len(predictions), predictions.labels, predictions.top[:, 0]
    if count == 0:
        raise ValueError("there are no predictions to measure")
    if not 0 <= int(torch.stack([labels, first]).min()) <= int(torch.stack([labels, first]).max()) < num_classes:
        raise ValueError(f"labels or answers are outside the {num_classes} classes")
    right = predictions.top == labels[:, None]
    confusion = torch.bincount(labels * num_classes + first, minlength=num_classes**2).view(num_classes, num_classes)
    classes = _per_class(confusion)
    seen = [each for each, answers in zip(classes, confusion.sum(0).tolist(), strict=True) if each.support or answers]
    bins = _reliability(predictions.probabilities[:, 0].double(), right[:, 0])
    return Metrics(
        count=count,
        loss=math.fsum(predictions.losses.tolist()) / count,  # exactly rounded: no order of adding changes a bit
        top1=int(right[:, 0].sum()) / count,
        top5=int(right[:, :TOP].any(1).sum()) / count,
        macro_precision=_mean([each.precision for each in seen]),
        macro_recall=_mean([each.recall for each in seen]),
        macro_f1=_mean([each.f1 for each in seen]),
        balanced_accuracy=_mean([each.recall for each in classes if each.support]),
        calibration_error=calibration_error(bins),
        reliability=bins,
        classes=classes,
        confusion=confusion,
    )


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """`sum of count / N * |accuracy - confidence|` over the bins (Guo et al. 2017, equation 5)."""
    total = sum(each.count for each in bins)
    gaps = [
        each.count / total * abs(each.accuracy - each.confidence)
        for each in bins
        if each.accuracy is not None and each.confidence is not None
    ]
    return math.fsum(gaps)


def hardest(predictions: Predictions, limit: int) -> Tensor:
    """Indices of at most `limit` images whose first answer is wrong, the highest loss first."""
    wrong = (predictions.top[:, 0] != predictions.labels).nonzero().flatten()
    order = predictions.losses[wrong].argsort(descending=True, stable=True)
    return wrong[order[:limit]]


def most_confused(confusion: Tensor, limit: int) -> list[tuple[int, int, int]]:
    """True class, predicted class and how often, for at most `limit` kinds of mistakes, the most frequent first."""
    mistakes = confusion.clone().fill_diagonal_(0)
    counts, places = mistakes.flatten().sort(descending=True, stable=True)
    size = len(confusion)
    pairs = zip(counts[:limit].tolist(), places[:limit].tolist(), strict=True)
    return [(place // size, place % size, count) for count, place in pairs if count]


def _per_class(confusion: Tensor) -> tuple[ClassMetrics, ...]:
    found, support, answers = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return tuple(
        ClassMetrics(_ratio(hit, said), _ratio(hit, there), _ratio(2 * hit, said + there), there)
        for hit, there, said in zip(found, support, answers, strict=True)
    )


def _reliability(confidence: Tensor, right: Tensor) -> tuple[ReliabilityBin, ...]:
    """Bins of equal width, each open below and closed above."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    # A probability of exactly 0 belongs to no such bin, one that rounding made larger than 1 neither.
    place = (torch.bucketize(confidence, edges) - 1).clamp(0, BINS - 1)
    counts = torch.bincount(place, minlength=BINS).tolist()
    confidences = torch.bincount(place, confidence, BINS).tolist()
    rights = torch.bincount(place, right.double(), BINS).tolist()
    return tuple(
        ReliabilityBin(low, high, count, said / count if count else None, hit / count if count else None)
        for low, high, count, said, hit in zip(
            edges[:-1].tolist(), edges[1:].tolist(), counts, confidences, rights, strict=True
        )
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
