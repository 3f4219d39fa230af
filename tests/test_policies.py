"""Operations, magnitudes and pairs of the policies against torchvision's, image by image."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import autoaugment as v1
from torchvision.transforms import v2

from effnet_builder.train import color
from effnet_builder.train.augment_settings import AnyPolicy, AutoAugment, RandAugment, TrivialAugment
from effnet_builder.train.draws import Draws
from effnet_builder.train.geometry import affine
from effnet_builder.train.policies import affine_matrices, apply_operations, apply_policy, draw_operations
from effnet_builder.train.policy_tables import OPERATIONS, PAIRS, SIGNED, magnitudes, wide_magnitudes

NEAREST = TrivialAugment(type="trivial_augment")
THEIRS = v2.RandAugment()
GEOMETRY = OPERATIONS[1:6]
# A level that lies between two whole ones is cut to the lower: where a blend comes to a whole number, but for its last
# bit, one level is missing. Here sums are whole numbers and rounded once, so that it happens to theirs, not to ours.
BLENDED = {"Color", "Contrast", "Sharpness"}


def images(count: int = 62, channels: int = 3, size: tuple[int, int] = (33, 46)) -> Tensor:
    """A third noise, a third smooth, a third of few levels."""
    noise = torch.randint(0, 256, (count, channels, *size), generator=torch.Generator().manual_seed(0)).float()
    noise[1::3] = F.avg_pool2d(noise[1::3], 5, 1, 2)
    noise[2::3] = 60 + noise[2::3] % 40
    return noise.to(torch.uint8)


def theirs(image: Tensor, name: str, strength: float, interpolation: str = "nearest", fill: Any = None) -> Tensor:
    strength = strength / 255 if name == "Solarize" else strength
    mode = v2.InterpolationMode(interpolation)
    return THEIRS._apply_image_or_video_transform(image, name, strength, mode, {Tensor: fill})


def ours(x: Tensor, name: str, strengths: Tensor, policy: AnyPolicy = NEAREST) -> Tensor:
    return apply_operations(x, torch.full((len(x),), OPERATIONS.index(name)), strengths, policy)


def strengths(name: str, wide: bool, size: tuple[int, int] = (33, 46)) -> Tensor:
    """All 31 levels of an operation, and with them those of the other sign, if it has one."""
    row = (wide_magnitudes() if wide else magnitudes(31, *size))[OPERATIONS.index(name)]
    return torch.cat([row, -row if SIGNED[OPERATIONS.index(name)] else row])


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_torchvisions(name: str, channels: int, wide: bool) -> None:
    x, strong = images(channels=channels), strengths(name, wide)
    found = ours(x, name, strong)
    expected = torch.stack([theirs(image, name, float(s)) for image, s in zip(x, strong, strict=True)])
    differ = (found.int() - expected.int()).abs()
    if name in BLENDED:
        assert differ.max() <= 1
        assert (differ > 0).float().mean() < 0.01
    elif name in ("ShearX", "ShearY", "Rotate"):  # half way between two pixels, the last bit decides
        assert (differ > 0).float().mean() < 0.003
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", GEOMETRY)
def test_between_pixels_as_torchvision_does(name: str) -> None:
    x, strong = images(), strengths(name, wide=True)
    found = ours(x, name, strong, TrivialAugment(type="trivial_augment", interpolation="bilinear"))
    expected = torch.stack([theirs(image, name, float(s), "bilinear") for image, s in zip(x, strong, strict=True)])
    differ = (found.int() - expected.int()).abs()
    assert differ.max() <= 1
    assert (differ > 0).float().mean() < 0.005


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", GEOMETRY)
def test_fill_is_what_lies_outside(name: str, interpolation: Any) -> None:
    """As if the image were part of a larger one of that level."""
    x, strong = images(), strengths(name, wide=False)
    policy = TrivialAugment(type="trivial_augment", interpolation=interpolation, fill=77)
    found = ours(x, name, strong, policy)
    if interpolation == "nearest":
        expected = torch.stack([theirs(i, name, float(s), fill=[77.0] * 3) for i, s in zip(x, strong, strict=True)])
        assert (found != expected).float().mean() < 0.003
    else:
        matrices = affine_matrices(torch.full((62,), OPERATIONS.index(name)), strong, x.shape[-2:])
        # Shears are about the corner, which the border moves.
        border = 40
        larger = affine(F.pad(x, (border,) * 4, value=77), matrices.float(), interpolation, 77)
        expected = larger[..., border:-border, border:-border]
        assert (found.int() - expected.int()).abs().max() <= 1
    assert (found == 77).float().mean() > (x == 77).float().mean()


@pytest.mark.parametrize("name", OPERATIONS[6:])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3), (16, 16)])
def test_colours_of_odd_images(name: str, size: tuple[int, int]) -> None:
    """Of one level, of two, of the extremes, and of hardly any pixels."""
    x = images(62, 3, size)
    x[:10] = torch.arange(10, dtype=torch.uint8)[:, None, None, None] * 28
    x[10:20] = torch.where(x[10:20] > 100, 200, 3).to(torch.uint8)
    x[20:24], x[24:28] = 0, 255
    strong = strengths(name, wide=True)
    expected = torch.stack([theirs(image, name, float(s)) for image, s in zip(x, strong, strict=True)])
    differ = (ours(x, name, strong).int() - expected.int()).abs()
    assert differ.max() <= (1 if name in BLENDED else 0)


def test_a_blend_of_equals_is_the_same() -> None:
    """Where torchvision's loses a level: smooth or mean and image are one, whatever the factor."""
    x = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 1, 5, 5)
    for factor in torch.linspace(0, 2, 41):
        factors = factor.repeat(256)[:, None, None, None]
        assert torch.equal(color.contrast(x, factors), x)
        assert torch.equal(color.sharpness(x, factors), x)


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("name", OPERATIONS)
def test_any_number_of_channels(name: str, channels: int) -> None:
    """Each channel by itself as a grey image; saturation does nothing; contrast goes to the mean of all channels."""
    x, strong = images(channels=channels), strengths(name, wide=True)
    found = ours(x, name, strong)
    if name == "Contrast":
        mean = x.double().mean((1, 2, 3), keepdim=True)
        expected = (mean + (x - mean) * (1 + strong)[:, None, None, None]).clamp(0, 255)
        assert (found - expected).abs().max() < 1.001
    else:
        alone = [ours(x[:, i : i + 1], name, strong) for i in range(channels)]
        assert torch.equal(found, torch.cat(alone, 1))
    assert (name in ("Color", "Identity")) == torch.equal(found, x)


# Tables


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (33, 46)])
def test_magnitudes_are_torchvisions(size: tuple[int, int]) -> None:
    spaces = [
        (v1.RandAugment()._augmentation_space(31, size), magnitudes(31, *size)),
        (v1.AutoAugment()._augmentation_space(10, size), magnitudes(10, *size)),
        (v1.TrivialAugmentWide()._augmentation_space(31), wide_magnitudes()),
    ]
    for kind, (space, table) in enumerate(spaces):
        newer = (v2.RandAugment, v2.AutoAugment, v2.TrivialAugmentWide)[kind]._AUGMENTATION_SPACE
        assert set(space) == set(newer) == set(OPERATIONS) - ({"Identity"} if kind == 1 else {"Invert"})
        for name, (values, signed) in space.items():
            i = OPERATIONS.index(name)
            assert bool(SIGNED[i]) == signed == newer[name][1]
            assert torch.equal(table[i].float(), values.float().expand(table.shape[1])), name
            again = newer[name][0](table.shape[1], *size)
            if again is not None:
                again = again * 255 if name == "Solarize" else again  # there 238 is a bit more than 238
                assert torch.allclose(table[i].float(), again.float(), rtol=1e-6, atol=1e-5), name


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_torchvisions(name: str) -> None:
    operations, probabilities, levels = PAIRS[name]
    for i, pair in enumerate(v2.AutoAugment(v2.AutoAugmentPolicy(name))._policies):
        for j, (operation, probability, level) in enumerate(pair):
            assert OPERATIONS[operations[i, j]] == operation
            assert float(probabilities[i, j]) == pytest.approx(probability)
            assert int(levels[i, j]) == (level or 0)


# Draws


def drawn(policy: AnyPolicy, count: int = 30_000) -> list[tuple[Tensor, Tensor]]:
    return list(draw_operations(policy, (32, 32), Draws(0, count)))


def test_rand_augment_draws_every_operation_of_its_magnitude_and_either_sign() -> None:
    steps = drawn(RandAugment(type="rand_augment", num_ops=3, magnitude=12))
    assert len(steps) == 3
    assert not torch.equal(steps[0][0], steps[1][0])
    for operations, strong in steps:
        counts = torch.bincount(operations, minlength=15)
        assert counts[14] == 0
        assert ((counts[:14] - 30_000 / 14).abs() < 5 * (30_000 / 14) ** 0.5).all()
        for i in range(14):
            values = Counter(strong[operations == i].tolist())
            level = float(magnitudes(31, 32, 32)[i, 12])
            assert set(values) == ({level, -level} if SIGNED[i] else {level})
            assert max(values.values()) < 0.56 * sum(values.values()) or not SIGNED[i]


def test_trivial_augment_draws_every_level() -> None:
    [(operations, strong)] = drawn(TrivialAugment(type="trivial_augment"), 60_000)
    for i in range(14):
        row = wide_magnitudes()[i]
        expected = set(row.tolist()) | (set((-row).tolist()) if SIGNED[i] else set())
        assert set(strong[operations == i].tolist()) == expected
    assert torch.bincount(operations, minlength=15)[14] == 0


@pytest.mark.parametrize("name", PAIRS)
def test_auto_augment_draws_pairs_with_their_probabilities(name: Any) -> None:
    (first, strong), (second, _) = drawn(AutoAugment(type="auto_augment", policy=name), 100_000)
    expected: Counter[tuple[int, int]] = Counter()
    operations, probabilities, _ = PAIRS[name]
    for (a, b), (p, q) in zip(operations.tolist(), probabilities.tolist(), strict=True):
        for one, share in ((a, p), (0, 1 - p)):
            for two, other in ((b, q), (0, 1 - q)):
                expected[one, two] += share * other / 25
    found = Counter(zip(first.tolist(), second.tolist(), strict=True))
    for pair in expected.keys() | found.keys():
        assert found[pair] / 100_000 == pytest.approx(expected[pair], abs=0.006), pair
    if name == "svhn":
        shears = strong[first == OPERATIONS.index("ShearX")]
        assert 0.45 < (shears > 0).float().mean() < 0.55


POLICIES: list[AnyPolicy] = [
    RandAugment(type="rand_augment", num_ops=2, magnitude=20),
    TrivialAugment(type="trivial_augment"),
    AutoAugment(type="auto_augment", policy="imagenet"),
    AutoAugment(type="auto_augment", policy="cifar10", interpolation="bilinear"),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.type)
def test_an_image_gets_the_operations_that_it_drew(policy: AnyPolicy) -> None:
    """Each step by torchvision, from where ours is: a later one may turn a level's difference into many."""
    before = x = images(200)
    for operations, strong in draw_operations(policy, x.shape[-2:], Draws(3, 200)):
        after = apply_operations(x, operations, strong, policy)
        steps = zip(x, operations, strong, strict=True)
        expected = torch.stack([theirs(image, OPERATIONS[i], float(s), policy.interpolation) for image, i, s in steps])
        differ = (after != expected).float().mean((1, 2, 3))
        assert differ.max() < 0.2  # at magnitude 0.6, a fifth of the blends come to a whole level
        assert differ.mean() < 0.01
        x = after
    assert torch.equal(x, apply_policy(before, policy, Draws(3, 200)))
    assert (x != before).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.type)
def test_halves_are_the_whole(policy: AnyPolicy) -> None:
    for count, size in ((24, (19, 21)), (7, (64, 64))):
        x = images(count, 3, size)
        whole = apply_policy(x, policy, Draws(5, count))
        for cut in (1, count // 2):
            rows = [slice(None, cut), slice(cut, None)]
            parts = [apply_policy(x[part], policy, Draws(5, count, part)) for part in rows]
            assert torch.equal(torch.cat(parts), whole)
