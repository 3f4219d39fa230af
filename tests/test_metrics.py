"""The figures of an evaluation against scikit-learn, and calibration against sums by hand."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as theirs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_builder.train.metrics import BINS, hardest, measure, most_confused
from effnet_builder.train.predictions import Predictions, predict_batch


def predict(
    count: int, classes: int, seed: int, spread: float = 2.0, used: int | None = None
) -> tuple[Predictions, np.ndarray]:
    """Random logits with labels among the first `used` classes; the probabilities beside."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, used or classes, (count,), generator=generator)
    return predict_batch(logits, labels), logits.softmax(1).numpy()


@settings(max_examples=60)
@given(
    count=st.integers(1, 60),
    classes=st.integers(2, 12),
    seed=st.integers(0, 2**31),
    spread=st.floats(0.1, 3),  # scikit-learn cuts probabilities at 2e-16
    data=st.data(),
)
def test_figures_are_scikit_learns(count: int, classes: int, seed: int, spread: float, data: st.DataObject) -> None:
    used = data.draw(st.integers(1, classes))
    predictions, probabilities = predict(count, classes, seed, spread, used)
    ours = measure(predictions, classes)
    truth, answers, every = predictions.labels.numpy(), predictions.top[:, 0].numpy(), range(classes)
    assert ours.count == count
    assert ours.top1 == theirs.accuracy_score(truth, answers)
    top5 = 1.0
    if classes > 5:
        top5 = theirs.top_k_accuracy_score(truth, probabilities, k=5, labels=every)
    assert ours.top5 == pytest.approx(top5, abs=1e-12)
    assert ours.loss == pytest.approx(theirs.log_loss(truth, probabilities, labels=every), rel=1e-5, abs=1e-6)
    assert np.array_equal(ours.confusion.numpy(), theirs.confusion_matrix(truth, answers, labels=every))
    table = theirs.precision_recall_fscore_support(truth, answers, labels=every, zero_division=0)
    mine = [(each.precision, each.recall, each.f1, each.support) for each in ours.classes]
    assert np.allclose(np.array(mine).T, table, atol=1e-12)
    macro = theirs.precision_recall_fscore_support(truth, answers, average="macro", zero_division=0)[:3]
    assert (ours.macro_precision, ours.macro_recall, ours.macro_f1) == pytest.approx(macro, abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of answers that are no label
        assert ours.balanced_accuracy == pytest.approx(theirs.balanced_accuracy_score(truth, answers), abs=1e-12)


def entries(confidences: list[float], right: list[bool]) -> Predictions:
    """Two classes, the first answer always class 0."""
    first = torch.tensor(confidences)
    labels = torch.tensor([0 if each else 1 for each in right])
    top = torch.tensor([[0, 1]]).repeat(len(right), 1)
    return Predictions(labels, torch.zeros(len(right)), top, torch.stack([first, 1 - first], 1))


def test_calibration_error_by_hand() -> None:
    # Bins of 1/15: 0.52 and 0.53 in (7/15, 8/15], 0.75 in (11/15, 12/15], 0.95 and 1.0 in (14/15, 1].
    metrics = measure(entries([0.52, 0.53, 0.75, 0.95, 1.0], [True, False, False, True, True]), 2)
    by_hand = 2 / 5 * abs(0.5 - 0.525) + 1 / 5 * abs(0 - 0.75) + 2 / 5 * abs(1 - 0.975)
    assert by_hand == pytest.approx(0.17)
    assert metrics.calibration_error == pytest.approx(by_hand, abs=1e-7)
    filled = {i: each for i, each in enumerate(metrics.reliability) if each.count}
    assert {i: (each.count, each.accuracy) for i, each in filled.items()} == {7: (2, 0.5), 11: (1, 0.0), 14: (2, 1.0)}
    assert filled[7].confidence == pytest.approx(0.525)
    assert [each.confidence for i, each in enumerate(metrics.reliability) if i not in filled] == [None] * 12
    assert [metrics.reliability[0].low, metrics.reliability[-1].high, len(metrics.reliability)] == [0, 1, BINS]


def test_a_confidence_on_an_edge_is_in_the_bin_below() -> None:
    edge = 8 / 15
    # In float32 the edge is a little more or less than 8/15; the neighbours in float32 are on either side of it.
    below, above = np.nextafter(np.float32(edge), np.float32(0)), np.nextafter(np.float32(edge), np.float32(1))
    metrics = measure(entries([float(below), float(above)], [True, True]), 2)
    assert [i for i, each in enumerate(metrics.reliability) if each.count] == [7, 8]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 200))
def test_calibration_error_is_the_sum_over_images(seed: int, count: int) -> None:
    predictions, _ = predict(count, 4, seed)
    said, right = predictions.probabilities[:, 0].tolist(), (predictions.top[:, 0] == predictions.labels).tolist()
    gaps = [0.0] * BINS
    for confidence, hit in zip(said, right, strict=True):
        gaps[min(BINS - 1, math.ceil(confidence * BINS) - 1)] += hit - confidence
    assert measure(predictions, 4).calibration_error == pytest.approx(sum(map(abs, gaps)) / count, abs=1e-9)


def test_two_classes_one_image_and_absent_classes() -> None:
    one = measure(entries([0.6], [False]), 2)
    assert (one.count, one.top1, one.top5, one.balanced_accuracy) == (1, 0.0, 1.0, 0.0)
    assert one.confusion.tolist() == [[0, 0], [1, 0]]
    wide = measure(entries([0.6], [True]), 50)
    assert (wide.top1, wide.macro_f1, wide.balanced_accuracy) == (1.0, 1.0, 1.0)
    assert [each.support for each in wide.classes] == [1] + 49 * [0]


def test_what_cannot_be_measured_is_refused() -> None:
    empty = Predictions(
        torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2)
    )
    with pytest.raises(ValueError, match="no predictions"):
        measure(empty, 2)
    with pytest.raises(ValueError, match="outside the 1 classes"):
        measure(entries([0.6], [False]), 1)


def test_the_dictionary_is_json_and_says_everything() -> None:
    metrics = measure(predict(30, 7, 0)[0], 7)
    data = metrics.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["confusion"] == metrics.confusion.tolist()
    assert data["classes"][3] == {
        "precision": metrics.classes[3].precision, "recall": metrics.classes[3].recall, "f1": metrics.classes[3].f1,
        "support": metrics.classes[3].support,
    }  # fmt: skip
    assert {type(each) for each in data["reliability"][14].values()} <= {float, int, type(None)}
    broken = predict(3, 3, 0)[0]
    lost = Predictions(broken.labels, torch.tensor([1.0, math.inf, 1.0]), broken.top, broken.probabilities)
    assert measure(lost, 3).to_dict()["loss"] is None


def test_the_loss_does_not_depend_on_the_order_of_adding() -> None:
    predictions, _ = predict(4097, 3, 1)
    order = torch.randperm(4097, generator=torch.Generator().manual_seed(0))
    turned = Predictions(*(getattr(predictions, name)[order] for name in ("labels", "losses", "top", "probabilities")))
    assert measure(predictions, 3).loss == measure(turned, 3).loss
    assert measure(predictions, 3).loss == pytest.approx(predictions.losses.double().mean().item(), rel=1e-14)


def test_hardest_are_the_wrong_ones_by_loss() -> None:
    predictions, _ = predict(50, 4, 3)
    wrong = [i for i in range(50) if predictions.top[i, 0] != predictions.labels[i]]
    expected = sorted(wrong, key=lambda i: -predictions.losses[i].item())
    assert 10 < len(wrong) < 50
    assert hardest(predictions, 7).tolist() == expected[:7]
    assert hardest(predictions, 1000).tolist() == expected
    assert hardest(entries([0.9], [True]), 5).tolist() == []


def test_most_confused_pairs() -> None:
    confusion = torch.tensor([[9, 1, 4], [0, 9, 0], [4, 2, 0]])
    assert most_confused(confusion, 3) == [(0, 2, 4), (2, 0, 4), (2, 1, 2)]
    assert most_confused(confusion, 100) == [(0, 2, 4), (2, 0, 4), (2, 1, 2), (0, 1, 1)]
    assert confusion[0, 0] == 9, "the matrix is not changed"
