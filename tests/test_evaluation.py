"""Views of an image against loops over images, and norm statistics against sums by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effnet_builder import build_model
from effnet_builder.train.evaluation import averaged_logits, recompute_norm_statistics, tta_views


def images(count: int = 3, height: int = 5, width: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def moved(image: np.ndarray, by: int, mirror: bool) -> np.ndarray:
    """One image (C, H, W) in numpy, its content moved by (`by`, `by`) px, borders reflected without the edge."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    height, width = image.shape[1:]
    window = padded[:, 1 - by : 1 - by + height, 1 - by : 1 - by + width]
    return window[:, :, ::-1] if mirror else window


def per_image(kind: str, image: np.ndarray) -> list[tuple[float, np.ndarray]]:
    shifts = {"none": {0: 1.0}, "flip": {0: 1.0}, "flip-shift": {0: 0.5, -1: 0.25, 1: 0.25}}[kind]
    mirrors = (False,) if kind == "none" else (False, True)
    return [(weight / len(mirrors), moved(image, by, mirror)) for by, weight in shifts.items() for mirror in mirrors]


@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("flip", 2), ("flip-shift", 6)])
def test_views_are_those_of_each_image(kind: str, count: int) -> None:
    batch = images()
    views = list(tta_views(batch, kind))
    assert len(views) == count
    assert sum(weight for weight, _ in views) == 1
    expected = [per_image(kind, image) for image in batch.numpy()]
    for i, (weight, view) in enumerate(views):
        assert view.shape == batch.shape
        for n in range(len(batch)):
            # Our window starts at 0 first: the content moves down and right by one pixel, then the other way.
            order = {0: 0, 1: 1, 2: 4, 3: 5, 4: 2, 5: 3}[i]
            assert np.array_equal(view[n].numpy(), expected[n][order][1])
            assert weight == expected[n][order][0]


@pytest.mark.parametrize("kind", ["none", "flip", "flip-shift"])
def test_logits_are_averaged_over_views(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5)).double()
    batch = images().double()
    model(batch)
    found = averaged_logits(model, batch, kind)
    for n, image in enumerate(batch.numpy()):
        views = per_image(kind, image)
        alone = [weight * model(torch.from_numpy(view.copy())[None])[0] for weight, view in views]
        assert torch.allclose(found[n], torch.stack(alone).sum(0), atol=1e-12)


def test_logits_of_low_precision_are_added_in_float32() -> None:
    logits = averaged_logits(lambda x: x.mean((2, 3)).bfloat16(), images(), "flip-shift")
    assert logits.dtype == torch.float32
    plain = images()
    assert torch.equal(averaged_logits(lambda x: x.mean((2, 3)), plain, "none"), plain.mean((2, 3)))


# Norm statistics


def batches(sizes: tuple[int, ...] = (8, 8, 5)) -> list[Tensor]:
    return [images(size, 4, 4, seed=i) * (i + 1) for i, size in enumerate(sizes)]


def test_statistics_of_one_norm_by_hand() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.01), nn.Dropout(0.5)).train()
    model[0].num_batches_tracked.fill_(77)
    recompute_norm_statistics(model, batches())
    values = [batch.numpy().astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1) for batch in batches()]
    mean = np.mean([each.mean(1) for each in values], axis=0)
    variance = np.mean([each.var(1, ddof=1) for each in values], axis=0)
    assert np.allclose(model[0].running_mean.numpy(), mean, rtol=1e-6)
    assert np.allclose(model[0].running_var.numpy(), variance, rtol=1e-6)
    assert model[0].momentum == 0.01
    assert model[0].num_batches_tracked == 77
    assert not any(module.training for module in model.modules())


def test_statistics_behind_a_norm_are_of_what_it_puts_out() -> None:
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(4, affine=False)
    between = nn.Conv2d(3, 4, 1)
    nn.init.normal_(first.weight)
    recompute_norm_statistics(nn.Sequential(first, nn.Dropout(0.9), between, second), batches((6, 6)))
    means = []
    for batch in batches((6, 6)):
        deviation = (batch - batch.mean((0, 2, 3), keepdim=True)) / (
            batch.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
        ).sqrt()
        put_out = between(deviation * first.weight[:, None, None] + first.bias[:, None, None])
        means.append(put_out.mean((0, 2, 3)))
    assert torch.allclose(second.running_mean, torch.stack(means).mean(0), atol=1e-5)


def test_statistics_of_a_network_change_nothing_else() -> None:
    torch.manual_seed(0)
    model = build_model("test-efficientnet").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    recompute_norm_statistics(
        model, (torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2))
    )
    assert torch.equal(torch.get_rng_state(), random), "neither dropout nor drop-path drew"
    after = model.state_dict()
    changed = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"running_mean", "running_var"}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = {
        module.momentum for module in build_model("test-efficientnet").modules() if isinstance(module, nn.BatchNorm2d)
    }
    assert {module.momentum for module in norms} == momenta
    assert not model.training


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ValueError])
def test_an_interruption_leaves_the_statistics_as_they_were(error: type[BaseException]) -> None:
    def interrupted() -> Iterator[Tensor]:
        yield images()
        if error is not ValueError:
            raise error
        yield torch.rand(1, 3, 1, 1)  # one value for each channel has no variance

    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3))
    model[0].running_mean.fill_(5)
    model[0].num_batches_tracked.fill_(9)
    with pytest.raises(error):
        recompute_norm_statistics(model, interrupted())
    assert model[0].running_mean.tolist() == [5, 5, 5]
    assert model[0].running_var.tolist() == [1, 1, 1]
    assert (model[0].num_batches_tracked, model[0].momentum, model.training) == (9, 0.3, False)
    assert not model[0].training


def test_no_batches_and_no_norms() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="at least one batch"):
        recompute_norm_statistics(model, [])
    assert model[0].running_var.tolist() == [1, 1, 1]

    def untouched() -> Iterator[Tensor]:
        raise AssertionError("a batch was drawn")
        yield

    for plain in (nn.Sequential(nn.GroupNorm(1, 3)), nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))):
        recompute_norm_statistics(plain.train(), untouched())
        assert not plain.training
