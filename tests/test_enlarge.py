"""Small images made large, mirrored, windowed and normalized at once: beside the same, one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_builder.train.augment import InputPath
from effnet_builder.train.augment_settings import Augment, Cutout, RandAugment
from effnet_builder.train.draws import Draws
from effnet_builder.train.geometry import line_weights, resize
from effnet_builder.train.recipe import Normalize


def normalization(channels: int) -> Normalize:
    numbers = torch.linspace(0.2, 0.6, channels)
    return Normalize(mean=tuple(numbers.tolist()), std=tuple((numbers / 2).tolist()))


@given(
    st.integers(1, 5), st.sampled_from([1, 3, 4]), st.tuples(st.integers(1, 12), st.integers(1, 12)), st.integers(0, 9),
    st.sampled_from([False, True, "alternating"]), st.integers(0, 40), st.sampled_from(["constant", "reflect"]),
    st.sampled_from([1.0, 0.8]), st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=80)
def test_at_once_is_one_after_the_other(
    count: int,
    channels: int,
    side: tuple[int, int],
    more: int,
    flip: Any,
    padding: int,
    mode: Any,
    crop: float,
    seed: int,
) -> None:
    augment = Augment(
        resize_first=True, horizontal_flip=flip, crop_padding=padding, **({"padding_mode": mode} if padding else {})
    )
    path = InputPath(2 * max(side) + more, normalization(channels), augment, crop)
    images = torch.randint(0, 256, (count, channels, *side), dtype=torch.uint8)
    index = torch.arange(count)
    assert path._enlarges(images)
    draws = Draws(seed, count), Draws(seed, count)
    at_once = path._enlarged(images, index, 1, draws[0])
    one_by_one = path._changed(images, index, 1, draws[1])
    assert torch.allclose(at_once, one_by_one, atol=1e-5)
    assert at_once.is_contiguous(memory_format=torch.channels_last)
    assert draws[0].one() == draws[1].one()  # as many numbers were drawn
    assert torch.equal(path.train(images, index, 1, Draws(seed, count)), at_once)


def test_the_weights_of_lines_are_those_of_torch() -> None:
    for side, size in ((1, 5), (7, 14), (32, 224), (3, 100)):
        x = torch.randn(2, 3, side, side)
        weights = line_weights(side, size)
        found = torch.einsum("rh,nchw,sw->ncrs", weights, x, weights)
        expected = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        assert torch.allclose(found, expected, atol=1e-5)
        assert torch.equal(resize(x, size), expected)


@pytest.mark.parametrize(
    ("augment", "resolution", "expected"),
    [
        (Augment(resize_first=True), 16, True),
        (Augment(resize_first=True, cutout=Cutout(size=3)), 16, True),
        (Augment(resize_first=True), 15, False),
        (Augment(), 16, False),
        (Augment(resize_first=True, policy=RandAugment(type="rand_augment")), 16, False),
    ],
)
def test_when_it_is_done(augment: Augment, resolution: int, expected: bool) -> None:
    path = InputPath(resolution, normalization(3), augment)
    images = torch.zeros(2, 3, 8, 6, dtype=torch.uint8)
    assert path._enlarges(images) is expected
    assert not path._enlarges(images.to("meta"))
    assert path.train(images, torch.arange(2), 0, Draws(0, 2)).shape == (2, 3, resolution, resolution)
