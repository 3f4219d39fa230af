"""Distillation: the loss against scipy's, and gradients by hand; what the teacher sees and keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from torch import nn

from effnet_builder import ConfigError
from effnet_builder.config import node_of, validate
from effnet_builder.config.errors import Mark
from effnet_builder.config.reading import Document
from effnet_builder.train.distill import Teacher, distillation_loss
from effnet_builder.train.optim_settings import Distill
from effnet_builder.train.recipe import Normalize


@given(st.integers(1, 5), st.integers(1, 7), st.floats(0.5, 50), st.integers(0, 2**31))
def test_the_loss_is_scipys(count: int, classes: int, temperature: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    student, teacher = random.normal(scale=5, size=(2, count, classes))
    divergences = rel_entr(softmax(teacher / temperature, 1), softmax(student / temperature, 1)).sum(1)
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert found.item() == pytest.approx(temperature**2 * divergences.mean(), rel=1e-9, abs=1e-10)


def test_by_hand() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * np.log(3), 0.0]])
    # At T = 2 the teacher says 3/4 and 1/4, the student one half each.
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_its_gradient_is_the_difference_of_the_probabilities() -> None:
    """`T * (softmax(s / T) - softmax(t / T)) / N`, and none for the teacher's logits from `Teacher`."""
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    distillation_loss(student, teacher, 3.0).backward()
    expected = 3.0 * ((student.detach() / 3).softmax(1) - (teacher / 3).softmax(1)) / 3
    torch.testing.assert_close(student.grad, expected)


def test_half_precision_is_widened_and_shapes_are_compared() -> None:
    student, teacher = torch.randn(2, 8, 10).bfloat16()
    found = distillation_loss(student, teacher, 4.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, distillation_loss(student.float(), teacher.float(), 4.0))
    with pytest.raises(ValueError, match=r"logits \(8, 10\) of the student, \(8, 1\) of the teacher"):
        distillation_loss(student, teacher[:, :1], 4.0)


class Asked(nn.Module):
    """Keeps what it was asked with, and has a norm to move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm2d(3), nn.Linear(3, 5)
        self.images = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.images = x
        return self.fc(self.norm(x).mean((2, 3)))


def test_the_teacher_sees_the_images_in_its_own_normalization() -> None:
    pixels = torch.rand(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    student = Normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    own = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def normalized(by: Normalize) -> torch.Tensor:
        return (pixels - torch.tensor(by.mean)[:, None, None]) / torch.tensor(by.std)[:, None, None]

    asked = Asked()
    before = {name: value.clone() for name, value in asked.state_dict().items()}
    teacher = Teacher(asked, own, student)
    logits = teacher(normalized(student))
    torch.testing.assert_close(asked.images, normalized(own), rtol=1e-5, atol=1e-5)
    assert asked.images.is_contiguous(memory_format=torch.channels_last)
    assert not logits.requires_grad
    assert not asked.training
    assert not any(parameter.requires_grad for parameter in asked.parameters())
    assert all(torch.equal(value, before[name]) for name, value in asked.state_dict().items())
    torch.testing.assert_close(logits, asked.eval()(normalized(own)), rtol=1e-4, atol=1e-5)


def test_the_same_normalization_changes_no_bit() -> None:
    asked, images = Asked(), torch.randn(2, 3, 4, 4)
    same = Normalize(mean=(0.49, 0.48, 0.45), std=(0.247, 0.2435, 0.2616))
    Teacher(asked, same, same)(images)
    assert torch.equal(asked.images, images)


def test_the_student_learns_from_it() -> None:
    asked, student = Asked(), nn.Linear(3, 5)
    same = Normalize(mean=(0.0,) * 3, std=(1.0,) * 3)
    images = torch.randn(2, 3, 4, 4)
    logits = Teacher(asked, same, same)(images)
    distillation_loss(student(images.mean((2, 3))), logits, 2.0).backward()
    assert student.weight.grad is not None
    assert student.weight.grad.abs().sum() > 0
    assert asked.fc.weight.grad is None


def test_channels_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="the teacher takes images of 3 channels, the student of 1"):
        Teacher(Asked(), Normalize(mean=(0.5,) * 3, std=(1.0,) * 3), Normalize(mean=(0.5,), std=(1.0,)))


@pytest.mark.parametrize(("key", "value"), [("alpha", 0.0), ("alpha", 1.1), ("temperature", 0.0), ("teacher", "x")])
def test_settings(key: str, value: object) -> None:
    assert Distill().model_dump() == {"alpha": 0.5, "temperature": 4.0}
    with pytest.raises(ConfigError, match=key):
        validate(Distill, Document(node_of({key: value}, Mark("mine"))))
