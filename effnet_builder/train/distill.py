"""Distillation: the teacher, and how far the student's probabilities are from the teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recipe import Normalize


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """`T² * KL(softmax(teacher / T) || softmax(student / T))` in nats, mean over the batch (Hinton et al. 2015).

    Of logits (N, classes), in float32 or better. T² keeps the size of the gradients from falling with T. Raises
    ValueError for logits of other shapes.
    """
    if logits.shape != teacher_logits.shape:
        raise ValueError(f"logits {tuple(logits.shape)} of the student, {tuple(teacher_logits.shape)} of the teacher")
    wide = torch.promote_types(logits.dtype, torch.float32)
    student = (logits.to(wide) / temperature).log_softmax(1)
    teacher = (teacher_logits.to(wide) / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class Teacher:
    """A network that is asked and never trained: its parameters are frozen, and it stays in evaluation.

    It gets the student's images, normalized anew as it wants them. Raises ValueError for mean and std of other lengths.
    """

    def __init__(self, model: nn.Module, normalize: Normalize, student: Normalize) -> None:
        if len(normalize.mean) != len(student.mean):
            channels = f"{len(normalize.mean)} channels, the student of {len(student.mean)}"
            raise ValueError(f"the teacher takes images of {channels}")
        self.model = model.eval().requires_grad_(False)
        device = next((parameter.device for parameter in model.parameters()), None)
        mean, std, given_mean, given_std = (
            torch.tensor(values, dtype=torch.float64)
            for values in (normalize.mean, normalize.std, student.mean, student.std)
        )
        self.scale, self.shift = (
            values[:, None, None].to(device, torch.float32) for values in (given_std / std, (given_mean - mean) / std)
        )

    # Not inference_mode: the student's backward pass needs the logits.
    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) with the student's mean and std to logits (N, classes)."""
        logits: Tensor = self.model(torch.addcmul(self.shift, images, self.scale))
        return logits
