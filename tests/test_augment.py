"""The input path: crops, flips, erasing, mixtures and their order against torchvision and references written out."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from effnet_builder import ConfigError
from effnet_builder.train.augment import InputPath, cut_out, erase
from effnet_builder.train.augment_settings import (
    Augment,
    AutoAugment,
    Cutout,
    Erasing,
    Mix,
    RandAugment,
    RandomResizedCrop,
    TrivialAugment,
)
from effnet_builder.train.boxes import box_mask, crop_boxes, cutout_boxes, erasing_boxes
from effnet_builder.train.draws import Draws, hashed, hashed_normal
from effnet_builder.train.geometry import (
    alternating,
    centre_crop,
    crop_resize,
    crop_resize_together,
    random_window,
    resize,
)
from effnet_builder.train.mixing import cutmix, cutmix_box, mix_batch, mixup
from effnet_builder.train.recipe import Normalize, load_recipe

PLAIN = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SHIFTED = Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def images(count: int, size: int | tuple[int, int] = 8, channels: int = 3) -> Tensor:
    size = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, *size), generator=generator, dtype=torch.uint8)


def train(path: InputPath, x: Tensor, seed: int = 0, epoch: int = 0, rows: slice = slice(None)) -> Tensor:
    """A batch of the whole of `x`, or some rows of it."""
    return path.train(x[rows], torch.arange(len(x))[rows], epoch, Draws(seed, len(x), rows))


# Evaluation


@pytest.mark.parametrize(("side", "size", "share"), [(32, 32, 1.0), (32, 56, 1.0), (32, 24, 1.0), (64, 56, 0.875), (37, 20, 0.7), (9, 24, 0.5)])  # fmt: skip
def test_evaluation_equals_torchvisions_transforms(side: int, size: int, share: float) -> None:
    x = images(5, side)
    theirs = v2.Compose(
        [v2.CenterCrop(round(side * share)), v2.ToDtype(torch.float32, scale=True),
         v2.Resize((size, size), antialias=True), v2.Normalize(SHIFTED.mean, SHIFTED.std)]
    )(x)  # fmt: skip
    augment = Augment(horizontal_flip=True, crop_padding=3, erasing=Erasing())
    assert torch.allclose(InputPath(size, SHIFTED, augment, share).evaluate(x), theirs, atol=1e-5)
    # Without random changes, training sees the same.
    assert torch.equal(train(InputPath(size, SHIFTED, Augment(), share), x), InputPath(size, SHIFTED, augment, share).evaluate(x))  # fmt: skip


def test_what_is_stored_is_the_crop_of_the_resolution() -> None:
    """Sources store round(resolution / eval_crop) px, of which the crop then is the resolution: nothing is resized."""
    for resolution in range(1, 700):
        for share in (0.5, 0.8, 0.875, 0.95, 0.964, 1.0):
            assert centre_crop(torch.empty(1, 1, *[round(resolution / share)] * 2, device="meta"), share).shape[-1] == resolution  # fmt: skip


# Flips


@pytest.mark.parametrize("flip", [True, "random"])
def test_each_image_is_mirrored_or_not_on_its_own(flip: Any) -> None:
    x = images(200)
    plain = InputPath(8, PLAIN, Augment()).evaluate(x)
    found = train(InputPath(8, PLAIN, Augment(horizontal_flip=flip)), x)
    mirrored = [not torch.equal(a, b) for a, b in zip(found, plain, strict=True)]
    assert 70 < sum(mirrored) < 130
    for i, is_mirrored in enumerate(mirrored):
        assert torch.equal(found[i], plain[i].flip(2) if is_mirrored else plain[i])


def test_alternating_mirrors_every_image_in_every_other_epoch() -> None:
    index = torch.arange(50_000)
    first = alternating(index, 0)
    assert first.float().mean() == pytest.approx(0.5, abs=0.01)
    for bit in range(8):  # neither odd nor even indices, nor those of one half of a block
        upper = (index >> bit & 1).bool()
        assert first[upper].float().mean() == pytest.approx(0.5, abs=0.02)
    for epoch in range(1, 5):
        assert torch.equal(alternating(index, epoch), first if epoch % 2 == 0 else ~first)
    order = torch.randperm(50_000)
    assert torch.equal(alternating(index[order], 3), alternating(index, 3)[order])
    path, x = InputPath(8, PLAIN, Augment(horizontal_flip="alternating")), images(40)
    epochs = [train(path, x, seed, epoch) for seed, epoch in enumerate((0, 1, 2))]
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[0], epochs[1].flip(3))


def test_hashed_is_the_last_step_of_murmurhash3() -> None:
    """Written once more with Python's whole numbers."""

    def reference(h: int) -> int:
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
        return h ^ h >> 16

    values = [0, 1, 2, 12345, 2**31 - 1, -1, -(2**31), 50_000]
    found = hashed(torch.tensor(values, dtype=torch.int32))
    assert [value % 2**32 for value in found.tolist()] == [reference(value % 2**32) for value in values]
    assert reference(1) == 0x514E28B7  # as published


# Padded crops


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_each_crop_is_a_window_of_the_padded_image(mode: Any) -> None:
    x = images(400) // 2 + 1
    found = random_window(x, 2, mode, Draws(0, 400))
    offsets = Counter()
    for image, crop in zip(x, found, strict=True):
        padded = TF.pad(image, [2], padding_mode=mode)
        windows = [(i, j) for i in range(5) for j in range(5) if torch.equal(padded[:, i : i + 8, j : j + 8], crop)]
        assert len(windows) == 1
        offsets[windows[0]] += 1
    assert len(offsets) == 25  # every offset is drawn
    assert max(offsets.values()) < 40


@pytest.mark.parametrize(("side", "padding"), [(4, 9), (2, 5), (1, 3), (5, 4)])
def test_padding_may_be_wider_than_the_image(side: int, padding: int) -> None:
    """The image is mirrored at its edges again and again, as NumPy has it."""
    import numpy as np

    x = images(30, side)
    found = random_window(x, padding, "reflect", Draws(1, 30))
    for image, crop, (top, left) in zip(x, found, Draws(1, 30).integers(0, 2 * padding + 1, 2).tolist(), strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        assert torch.equal(crop, torch.from_numpy(padded)[:, top : top + side, left : left + side])


# Random resized crops


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((64, 64), {}),
        ((64, 64), {"scale": (0.9, 1.0), "ratio": (0.5, 2.0)}),  # most tries lie outside
        ((40, 100), {}),
        ((100, 40), {"scale": (0.5, 1.0)}),
        ((64, 64), {"scale": (0.95, 1.0), "ratio": (2.0, 3.0)}),  # none fits: the central part
    ],
)
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int], settings: Any) -> None:
    count = 4000
    crop = RandomResizedCrop(**settings)
    theirs_of = v2.RandomResizedCrop(8, **settings)
    image = torch.empty(3, *size)
    torch.manual_seed(0)
    found = [theirs_of.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[box["top"], box["left"], box["height"], box["width"]] for box in found])
    ours = crop_boxes(size, crop, Draws(0, count))
    assert ((ours[:, :2] >= 0) & (ours[:, 2:] > 0) & (ours[:, :2] + ours[:, 2:] <= torch.tensor(size))).all()
    for i in range(4):
        same = len(set(theirs[:, i].tolist())) == 1
        if same:
            assert set(ours[:, i].tolist()) == set(theirs[:, i].tolist())
        else:
            assert stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue > 1e-3, i
    areas = (boxes[:, 2] * boxes[:, 3] / math.prod(size) for boxes in (ours, theirs))
    assert stats.ks_2samp(*areas).pvalue > 1e-3


def test_a_crop_without_a_fitting_try_is_central() -> None:
    for size, ratio, expected in (
        ((64, 64), (2.0, 3.0), [16, 0, 32, 64]), ((64, 64), (0.25, 0.5), [0, 16, 64, 32]),
        ((20, 64), (1.0, 1.25), [0, 19, 20, 25]),
    ):  # fmt: skip
        boxes = crop_boxes(size, RandomResizedCrop(scale=(1.0, 1.0), ratio=ratio), Draws(0, 3))
        assert boxes.tolist() == [expected] * 3


@pytest.mark.parametrize(("side", "size"), [(64, 56), (64, 20), (32, 48), ((40, 70), 31)])
def test_crops_are_resized_as_torchvision_does(side: Any, size: int) -> None:
    x = images(30, side)
    boxes = crop_boxes(x.shape[-2:], RandomResizedCrop(), Draws(0, 30))
    for crop in (crop_resize, crop_resize_together):
        for image, box, found in zip(x, boxes.tolist(), crop(x, boxes, size), strict=True):
            expected = TF.resized_crop(image.float(), *box, [size, size], antialias=True)
            assert torch.allclose(found, expected, atol=0.01)  # of 255 levels


def test_a_policy_after_a_crop_gets_whole_levels() -> None:
    """As torchvision's crop of uint8 gives them; posterized to 2 bits, the images have four."""
    path = InputPath(16, PLAIN, Augment(random_resized_crop=RandomResizedCrop(), policy=TrivialAugment(type="trivial_augment")))  # fmt: skip
    levels = train(path, images(64, 24)) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert min(len(image.unique()) for image in levels.round()) <= 4


# Erasing and cutout


@pytest.mark.parametrize(("scale", "ratio"), [((0.02, 0.33), (0.3, 3.3)), ((0.5, 1.0), (0.1, 10.0))])
def test_erased_boxes_are_distributed_as_torchvisions(scale: Any, ratio: Any) -> None:
    count, size = 4000, (30, 44)
    theirs_of, image = v2.RandomErasing(scale=scale, ratio=ratio), torch.empty(3, *size)
    torch.manual_seed(0)
    found = [theirs_of.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[box[key] if box["v"] is not None else 0 for key in "ijhw"] for box in found])
    ours = erasing_boxes(size, Erasing(probability=1.0, scale=scale, ratio=ratio), Draws(0, count))
    for i in range(4):
        assert stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue > 1e-3, i
    halves = erasing_boxes(size, Erasing(probability=0.5), Draws(0, count))
    assert (halves[:, 2] > 0).float().mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("value", ["zero", "noise"])
def test_a_rectangle_is_erased_and_nothing_else(value: Any) -> None:
    x = torch.rand(64, 3, 20, 30) + 1
    erasing = Erasing(probability=0.75, value=value)
    found = erase(x.clone(), erasing, Draws(0, 64))
    boxes = erasing_boxes((20, 30), erasing, Draws(0, 64)).tolist()
    for image, before, (top, left, tall, wide) in zip(found, x, boxes, strict=True):
        inside = image[:, top : top + tall, left : left + wide]
        assert torch.equal(TF.erase(before, top, left, tall, wide, inside), image)
        assert inside.numel() == 0 or ((inside == 0).all() if value == "zero" else inside.std() > 0.5)


def test_noise_is_normal_and_each_images_own() -> None:
    noise = hashed_normal(torch.tensor([5, 6, 2**31 - 1]), 3, 40, 50)
    assert torch.equal(noise[1:2], hashed_normal(torch.tensor([6]), 3, 40, 50))
    for one in noise:
        assert stats.kstest(one.flatten(), "norm").pvalue > 1e-3
    assert stats.kstest((noise[0] - noise[1]).flatten() / 2**0.5, "norm").pvalue > 1e-3  # independent
    assert stats.kstest((noise[:, :, :, 1:] - noise[:, :, :, :-1]).flatten()[::2] / 2**0.5, "norm").pvalue > 1e-3


@pytest.mark.parametrize("size", [1, 4, 5, 60])
def test_cutout_is_a_square_around_a_pixel(size: int) -> None:
    """DeVries & Taylor: the centre is any pixel, and the square ends at the edges of the image."""
    x = torch.ones(300, 2, 12, 16)
    found = cut_out(x.clone(), Cutout(size=size), Draws(0, 300))
    boxes = cutout_boxes((12, 16), Cutout(size=size), Draws(0, 300))
    assert set((boxes[:, 0] + size // 2).tolist()) == set(range(12))
    assert set((boxes[:, 1] + size // 2).tolist()) == set(range(16))
    for image, (top, left, _, _) in zip(found, boxes.tolist(), strict=True):
        expected = torch.ones(2, 12, 16)
        expected[:, max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 0
        assert torch.equal(image, expected)
    some = cut_out(x.clone(), Cutout(size=size, probability=0.25), Draws(0, 300))
    assert (some == 0).flatten(1).any(1).float().mean() == pytest.approx(0.25, abs=0.1)


def test_masks_of_boxes() -> None:
    boxes = torch.tensor([[1, 2, 2, 1], [0, 0, 0, 0], [-1, -2, 3, 4]])
    assert box_mask(boxes, (3, 4)).int().tolist() == [
        [[[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]], [[[0] * 4] * 3], [[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]],
    ]  # fmt: skip


# Mixing


def test_mixtures_are_torchvisions() -> None:
    x, labels = torch.rand(6, 3, 10, 14), torch.tensor([0, 3, 2, 2, 1, 3])
    hot = F.one_hot(labels, 4).float()
    theirs = v2.MixUp(num_classes=4)
    for share in (0.0, 0.3, 1.0):
        params = {"lam": share, "labels": labels, "batch_size": 6}
        assert torch.allclose(mixup(x, share), theirs.transform(x, params), atol=1e-6)
        assert torch.allclose(mixup(hot, share), theirs.transform(labels, params), atol=1e-6)
    theirs = v2.CutMix(num_classes=4)
    for top, bottom, left, right in ((2, 7, 0, 5), (0, 10, 0, 14), (3, 3, 2, 9)):
        found, share = cutmix(x, (top, bottom, left, right))
        params = {"box": (left, top, right, bottom), "lam_adjusted": share, "labels": labels, "batch_size": 6}
        assert torch.equal(found, theirs.transform(x, params))
        assert share == pytest.approx(1 - (bottom - top) * (right - left) / 140)


def test_boxes_of_cutmix_are_distributed_as_torchvisions() -> None:
    image, count, theirs = torch.empty(2, 3, 30, 44), 3000, []
    torch.manual_seed(0)
    for _ in range(count):
        left, top, right, bottom = v2.CutMix(alpha=1.0, num_classes=2).make_params([image])["box"]
        theirs.append((top, bottom, left, right))
    draws = Draws(0, 1)
    ours = [cutmix_box((30, 44), draws.beta(1.0, 1.0), draws) for _ in range(count)]
    for mine, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        assert stats.ks_2samp(mine, other).pvalue > 1e-3


def test_a_mixed_batch_by_hand() -> None:
    """Image i with image i - 1; the targets are the shares of pixels."""
    x = torch.arange(1.0, 5.0)[:, None, None, None].expand(4, 1, 16, 16)
    labels = torch.tensor([0, 1, 2, 0])
    kinds = Counter()
    for seed in range(60):
        mixed, targets = mix_batch(x, labels, 3, Mix(mixup=0.2, cutmix=1.0, probability=0.75, switch=0.4), Draws(seed, 4))  # fmt: skip
        assert torch.allclose(targets.sum(1), torch.ones(4))
        share = float(targets[1, 1])
        assert torch.allclose(targets, torch.tensor([[1, 0, 0], [1 - share, share, 0], [0, 1 - share, share], [share, 0, 1 - share]]).float(), atol=1e-6)  # fmt: skip
        assert torch.allclose(mixed.mean((1, 2, 3)), torch.tensor([4 - 3 * share, 1 + share, 2 + share, 3 + share]), atol=1e-5)  # fmt: skip
        pixels = len(mixed[1].unique())
        kinds["none" if share == 1 else "mixup" if pixels == 1 and share not in (0, 1) else "cutmix"] += 1
    assert 5 <= kinds["none"] <= 30
    assert 15 <= kinds["mixup"] <= 40
    assert 5 <= kinds["cutmix"] <= 30
    same, hard = mix_batch(x, labels, 3, None, Draws(0, 4))
    assert same is x
    assert hard is labels


def test_soft_targets_without_a_mixture_are_the_labels() -> None:
    """So that the loss of a batch that is not mixed is that of its labels, smoothed or not."""
    x, labels, logits = torch.rand(5, 3, 4, 4), torch.tensor([4, 0, 1, 1, 3]), torch.randn(5, 6)
    _, targets = mix_batch(x, labels, 6, Mix(mixup=1.0, probability=1e-9), Draws(0, 5))
    for smoothing in (0.0, 0.1):
        soft, hard = (F.cross_entropy(logits, t, label_smoothing=smoothing) for t in (targets, labels))
        assert torch.allclose(soft, hard)


def test_beta_draws_are_beta_and_the_same_in_every_process() -> None:
    for alpha in (0.1, 0.2, 1.0, 4.0):
        draws = Draws(0, 1)
        assert stats.kstest([draws.beta(alpha, alpha) for _ in range(2000)], stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    first, second = Draws(7, 8, slice(0, 4)), Draws(7, 8, slice(4, 8))
    for draws in (first, second):
        draws.uniform(3)
    assert first.beta(0.2, 0.2) == second.beta(0.2, 0.2)


# The whole path


rand_augment = st.builds(
    RandAugment, type=st.just("rand_augment"), num_ops=st.integers(1, 3), magnitude=st.integers(0, 30),
    interpolation=st.sampled_from(["nearest", "bilinear"]), fill=st.integers(0, 255),
)  # fmt: skip
auto_augment = st.builds(
    AutoAugment, type=st.just("auto_augment"), policy=st.sampled_from(["imagenet", "cifar10", "svhn"])
)
policies = st.none() | rand_augment | auto_augment | st.just(TrivialAugment(type="trivial_augment"))


@st.composite
def augments(draw: st.DrawFn) -> Augment:
    cropped, padding = draw(st.booleans()), draw(st.sampled_from([0, 0, 1, 4]))
    padded = {"padding_mode": draw(st.sampled_from(["constant", "reflect"]))} if padding else {}
    erasing = st.builds(Erasing, probability=st.floats(0.01, 1), value=st.sampled_from(["zero", "noise"]))
    return Augment(
        random_resized_crop=RandomResizedCrop() if cropped else None,
        resize_first=not cropped and draw(st.booleans()),
        policy=draw(policies),
        horizontal_flip=draw(st.sampled_from([False, True, "random", "alternating"])),
        crop_padding=padding,
        erasing=draw(st.none() | erasing),
        cutout=draw(st.none() | st.builds(Cutout, size=st.integers(1, 40), probability=st.floats(0.01, 1))),
        **padded,
    )


@given(augments(), st.sampled_from([8, 12, 17]), st.sampled_from([8, 12, 15]), st.sampled_from([1, 2, 3]),
       st.integers(1, 9), st.integers(0, 9), st.integers(0, 3), st.sampled_from([1.0, 0.8]))  # fmt: skip
@settings(max_examples=100)
def test_any_augmentation_gives_images_that_depend_on_themselves_alone(
    augment: Augment, side: int, size: int, channels: int, count: int, seed: int, epoch: int, share: float
) -> None:
    """Whatever is asked for: the right shape, numbers, halves as the whole, twice the same, the global state untouched."""
    x = images(count, side, channels)
    before = x.clone()
    path = InputPath(size, Normalize(mean=(0.5,) * channels, std=(0.25,) * channels), augment, share)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = train(path, x, seed, epoch)
    assert found.shape == (count, channels, size, size)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    cut = count // 2
    halves = [train(path, x, seed, epoch, rows) for rows in (slice(0, cut), slice(cut, None)) if len(x[rows])]
    assert torch.equal(torch.cat(halves), found)
    assert torch.equal(train(path, x, seed, epoch), found)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)


@given(augments(), st.sampled_from([8, 17]), st.sampled_from([1, 3, 4]))
@settings(max_examples=60)
def test_the_device_is_never_asked_for_a_number(augment: Augment, side: int, channels: int) -> None:
    """On `meta` there are no numbers: whatever would wait for a GPU to know one is an error there."""
    device = torch.device("meta")
    x = torch.empty(6, channels, side, side, dtype=torch.uint8, device=device)
    path = InputPath(12, Normalize(mean=(0.5,) * channels, std=(0.25,) * channels), augment)
    found = path.train(x, torch.arange(6, device=device), 1, Draws(0, 6, device=device))
    assert found.shape == (6, channels, 12, 12)
    labels = torch.zeros(6, dtype=torch.int64, device=device)
    mixed, targets = mix_batch(found, labels, 10, Mix(mixup=0.2, cutmix=1.0), Draws(0, 6, device=device))
    assert (mixed.shape, targets.shape) == (found.shape, (6, 10))


def test_small_images_are_changed_at_their_size_and_then_enlarged() -> None:
    """The crop of the notebook acts on the enlarged image, the default on the stored one."""
    x = images(50, 8)
    for first in (False, True):
        augment = Augment(resize_first=first, horizontal_flip=True, crop_padding=2, cutout=Cutout(size=3))
        found = train(InputPath(24, SHIFTED, augment), x)
        draws = Draws(0, 50)
        stored = resize(x, 24) if first else x
        stored = torch.where((draws.integers(0, 2) == 1)[:, None, None, None], stored.flip(3), stored).float()
        stored = random_window(stored, 2, "constant", draws)
        stored = cut_out(TF.normalize(stored / 255, SHIFTED.mean, SHIFTED.std), Cutout(size=3), draws)
        assert torch.allclose(found, resize(stored, 24), atol=1e-5)


def test_large_images_are_shrunk_before_all_changes() -> None:
    x = images(20, 32)
    augment = Augment(horizontal_flip="alternating", crop_padding=3)
    found = train(InputPath(10, PLAIN, augment, 0.5), x)
    small = TF.resize(TF.center_crop(x, [16, 16]).float() / 255, [10, 10], antialias=True)
    small = torch.where(alternating(torch.arange(20), 0)[:, None, None, None], small.flip(3), small)
    assert torch.allclose(found, random_window(small, 3, "constant", Draws(0, 20)), atol=1e-5)


def test_the_notebooks_transforms() -> None:
    """Every image is what the notebook's torchvision transforms make of it, for some corner, mirrored or not."""
    recipe = load_recipe("notebook")
    x = images(4, 32)
    found = train(InputPath(224, recipe.normalize or PLAIN, recipe.augment), x)
    to_pil, mean, std = v2.ToPILImage(), [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    for image, mine in zip(x, found, strict=True):
        resized = v2.Resize((224, 224))(to_pil(image))
        candidates = []
        for flipped in (False, True):
            padded = TF.pad(TF.horizontal_flip(resized) if flipped else resized, [4])
            tensor = TF.normalize(TF.to_dtype(TF.pil_to_tensor(padded), torch.float32, scale=True), mean, std)
            windows = tensor.unfold(1, 224, 1).unfold(2, 224, 1)
            candidates += [(windows[:, i, j] - mine).abs().max() for i in range(9) for j in range(9)]
        # Pillow rounds to whole levels in between: half a level, twice.
        assert sum(gap < 1.01 / 255 / min(std) for gap in candidates) == 1


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"padding_mode": "reflect"}}, "augment.padding_mode = reflect: has no effect without crop_padding"),
        ({"augment": {"resize_first": True, "random_resized_crop": {}}}, "augment.resize_first = true: has no effect beside random_resized_crop"),
        ({"augment": {"horizontal_flip": "sometimes"}}, "augment.horizontal_flip = sometimes: expected true, false, 'random' or 'alternating'"),
        ({"augment": {"horizontal_flip": 1}}, "augment.horizontal_flip = 1: expected true, false, 'random' or 'alternating'"),
        ({"augment": {"random_resized_crop": {"scale": [1.0, 0.5]}}}, "augment.random_resized_crop.scale = a list: the first number is above the second"),
        ({"augment": {"erasing": {"ratio": [3.0, 0.5]}}}, "augment.erasing.ratio = a list: the first number is above the second"),
        ({"augment": {"policy": {"type": "randaugment"}}}, "augment.policy.type = randaugment: expected 'rand_augment', 'trivial_augment' or 'auto_augment'; did you mean 'rand_augment'?"),
        ({"augment": {"policy": {"type": "rand_augment", "magnitude": 31}}}, "augment.policy.magnitude = 31: expected a whole number from 0 to 30"),
        ({"augment": {"policy": {"type": "auto_augment", "policy": "cifar"}}}, "augment.policy.policy = cifar: expected 'imagenet', 'cifar10' or 'svhn'; did you mean 'cifar10'?"),
        ({"augment": {"policy": {"type": "trivial_augment", "magnitude": 3}}}, "augment.policy.magnitude: unknown key; allowed are fill, interpolation, type"),
        ({"augment": {"cutout": {"size": 0}}}, "augment.cutout.size = 0: expected a whole number from 1 to 10,000"),
        ({"mix": {}}, "mix.mixup: missing; expected a number above 0 to 100, or cutmix"),
        ({"mix": {"mixup": 0.2, "switch": 0.3}}, "mix.switch = 0.3: has no effect without both mixup and cutmix"),
        ({"mix": {"mixup": 0}}, "mix.mixup = 0: expected a number above 0 to 100"),
        ({"eval_crop": 0}, "eval_crop = 0: expected a number above 0 to 1"),
    ],
)  # fmt: skip
def test_what_a_recipe_may_not_say(changes: dict[str, Any], message: str) -> None:
    base: dict[str, Any] = {"augment.crop_padding": None, "augment.resize_first": None}
    with pytest.raises(ConfigError) as error:
        load_recipe("digits", base | {f"augment.{k}": v for k, v in changes.get("augment", {}).items()} | {k: v for k, v in changes.items() if k != "augment"})  # fmt: skip
    assert message in str(error.value)


def test_defaults_change_nothing_but_are_those_of_torchvision_once_asked_for() -> None:
    assert Augment().model_dump() == {
        "random_resized_crop": None, "resize_first": False, "policy": None, "horizontal_flip": False, "crop_padding": 0,
        "padding_mode": "constant", "erasing": None, "cutout": None,
    }  # fmt: skip
    crop, erasing, ops = v2.RandomResizedCrop(8), v2.RandomErasing(), v2.RandAugment()
    assert (RandomResizedCrop().scale, RandomResizedCrop().ratio) == (crop.scale, crop.ratio)
    assert (Erasing().scale, Erasing().ratio, Erasing().probability) == (erasing.scale, erasing.ratio, erasing.p)
    ours = RandAugment(type="rand_augment")
    interpolation = getattr(ops.interpolation, "value", ops.interpolation)  # older versions have an enumeration
    assert (ours.num_ops, ours.magnitude, ours.interpolation) == (ops.num_ops, ops.magnitude, interpolation)
    with pytest.raises(ValidationError):
        Mix(mixup=0.2, switch=0.5)
