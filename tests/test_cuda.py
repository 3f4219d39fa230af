"""The same numbers on CUDA as on the CPU: network, augmentation, evaluation, optimizers, skipped steps, data, state.

On a GPU where there is one, else on the fake one of tests/fakegpu, whose results are the CPU's: there the tests show
devices, dtypes, memory that is read before it is written, and synchronizations. Differences are relative to numbers
that are checked not to be zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import make_folder
from torch import Tensor, nn
from training import (
    OPTIMIZERS,
    AtEachStep,
    Faulty,
    Kept,
    begin,
    deep,
    differences,
    frozen_copy,
    normed,
    pictures,
    tiny_recipe,
)

from effnet_builder import build_model
from effnet_builder.models.compare import _randomize_norm
from effnet_builder.train.augment import InputPath
from effnet_builder.train.augment_settings import Augment
from effnet_builder.train.data import Storage, load_dataset, place
from effnet_builder.train.draws import Draws, hashed_normal
from effnet_builder.train.engine import Diverged, fit
from effnet_builder.train.loading import Loader
from effnet_builder.train.mixing import mix_batch
from effnet_builder.train.muon import MuonWithAux
from effnet_builder.train.norms import synchronize_norms
from effnet_builder.train.predictions import Evaluation, predict
from effnet_builder.train.probe import memory_step
from effnet_builder.train.recipe import Normalize, load_recipe
from effnet_builder.train.stages import stage_of
from effnet_builder.train.step import Rows, train_step
from effnet_builder.train.stopping import StopRequest

pytestmark = pytest.mark.cuda

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NORMALIZE = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
AUGMENTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "flips, padded crops": ("cifar10-fast7", {}),
    "resized crops, AutoAugment": ("imagenet-b0", {}),
    "TrivialAugment, mixing": ("cifar10-long", {}),
    "RandAugment": ("cifar10-fast7", {"augment.policy": {"type": "rand_augment", "interpolation": "bilinear"}}),
    "erasing with noise": ("cifar10-fast7", {"augment.erasing": {"value": "noise"}}),
}


def relative(found: Tensor, expected: Tensor) -> float:
    """`max |found - expected| / max |expected|`; fails where that is zero, and so shows nothing."""
    largest = expected.abs().max()
    assert largest > 1e-3, "nothing to compare with"
    return float((found.detach().cpu().double() - expected.detach().double()).abs().max() / largest)


def randomized(name: str, **changes: Any) -> nn.Module:
    """A network whose norms have weights and statistics, so that its outputs are of the order of 1."""
    torch.manual_seed(0)
    model, generator = build_model(name, num_classes=10, **changes), torch.Generator().manual_seed(0)
    for module in model.modules():
        _randomize_norm(module, generator)
    return model


@pytest.mark.parametrize("name", ["efficientnet-b0", "mobilenet-v3-large", "efficientnet-b0-g8-gn"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_outputs_and_gradients_in_float64(name: str, memory_format: torch.memory_format) -> None:
    model = randomized(name).double().eval()
    images = torch.randn(2, 3, 65, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = model(images)
    expected.square().sum().backward()
    gradients = {path: parameter.grad.clone() for path, parameter in model.named_parameters()}  # type: ignore[union-attr]
    model.zero_grad(set_to_none=True)
    model.to(CUDA).to(memory_format=memory_format)
    found = model(images.to(CUDA).to(memory_format=memory_format))
    found.square().sum().backward()
    assert relative(found, expected) < 1e-9
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None
        scale = max(gradients[path].abs().max().item(), 1e-6)
        assert (parameter.grad.cpu() - gradients[path]).abs().max().item() < 1e-8 * scale, path


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_autocast_is_the_same_network_up_to_rounding(dtype: torch.dtype, bound: float) -> None:
    model = randomized("efficientnet-b0").eval()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = model(images)
    model.to(CUDA).to(memory_format=torch.channels_last)
    with torch.autocast("cuda", dtype=dtype):
        logits = model(images.to(CUDA).contiguous(memory_format=torch.channels_last))
    assert logits.dtype == dtype
    assert 0 < relative(logits, expected) < bound
    logits.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.real_gpu
def test_inductor_compiles_one_graph() -> None:
    model = randomized("efficientnet-b0").eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = model(images)
    compiled = torch.compile(model.to(CUDA), fullgraph=True)
    assert relative(compiled(images.to(CUDA)), expected) < 1e-2


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_and_mixing(name: str) -> None:
    recipe, changes = AUGMENTATIONS[name]
    stage = stage_of(load_recipe(recipe, changes), 32, NORMALIZE, 1)
    stored = torch.randint(0, 256, (64, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = []
    for device in (CPU, CUDA):
        draws = Draws(5, 64, device=device)
        images = stage.inputs.train(stored.to(device), torch.arange(64), 1, draws)
        found.append(mix_batch(images, torch.arange(64, device=device) % 10, 10, stage.mix, draws))
    (expected, targets), (images, labels) = found
    assert images.device == labels.device == CUDA
    # A matrix product may round a pixel to the level beside it, of which a policy can make a large difference.
    far = (images.cpu() - expected).abs() > 1e-3 * expected.abs().max()
    assert far.double().mean() < 1e-3
    assert expected.std() > 0.5
    assert relative(labels.double(), targets.double()) < 1e-6


def test_noise_is_the_same_on_every_device() -> None:
    seeds = torch.arange(8)
    expected = hashed_normal(seeds, 3, 16, 16)
    assert relative(hashed_normal(seeds.to(CUDA), 3, 16, 16), expected) < 1e-5


@pytest.mark.parametrize("views", ["none", "flip", "flip-shift"])
def test_evaluation(views: Any) -> None:
    model, data = randomized("efficientnet-pico").eval(), pictures(18, 32)
    how = Evaluation(InputPath(32, NORMALIZE, Augment()), 5, views=views)
    expected = predict(model, Loader(data, CPU), how)
    model.to(CUDA).to(memory_format=torch.channels_last)
    found = predict(model, Loader(place_on_device(data), CUDA), how)
    assert torch.equal(found.labels, expected.labels)
    assert relative(found.losses, expected.losses) < 1e-3
    assert relative(found.probabilities, expected.probabilities) < 1e-3
    assert (found.top[:, 0] == expected.top[:, 0]).double().mean() > 0.9


def place_on_device(data: Any) -> Any:
    return replace(data, pixels=type(data.pixels)(data.pixels.images.to(CUDA)))


def trained(name: str, device: torch.device, **changes: Any) -> tuple[list[float], list[Tensor]]:
    """Gradient norms of a few steps, and how far the weights moved in them; without dropout, whose masks differ."""
    model = normed()
    model[11].p = 0.0  # type: ignore[union-attr,index]
    start = [parameter.detach().clone() for parameter in model.parameters()]
    recipe = tiny_recipe(optimizer=OPTIMIZERS[name], ema={"horizon": "3steps"}, clip={"max_norm": 2.0}, **changes)
    state, job = begin(model, recipe, device=device, fused=device.type == "cuda")
    norms = []
    for images, labels, index in job.train.batches(list(torch.arange(16).split(4))):
        norms.append(float(train_step(state, job, job.stage(0), Rows(images, labels, index, slice(0, 4), 4, 0))))
        state.step += 1
    assert state.average is not None
    moved = [parameter.detach().cpu() - one for parameter, one in zip(model.parameters(), start, strict=True)]
    return norms, moved + [parameter.cpu() for parameter in state.average.module.parameters()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_trains_as_on_the_cpu(name: str, precision: str) -> None:
    (norms, weights), (cuda_norms, cuda_weights) = (
        trained(name, device, precision=precision) for device in (CPU, CUDA)
    )
    exact = precision == "fp32" and name != "muon"  # whose products are bfloat16 on CUDA
    assert relative(torch.tensor(cuda_norms), torch.tensor(norms)) < (1e-3 if exact else 0.1)
    for found, expected in zip(cuda_weights, weights, strict=True):
        # AdamW moves a weight by the sign of its gradient, of which rounding to 8 bits makes another one if it is tiny.
        bound = 1e-3 if exact else 0.1 if precision == "fp32" else 1.0
        assert (found - expected).norm() < bound * max(expected.norm().item(), 1e-2)
    assert sum(expected.norm().item() for expected in weights) > 0.1


@pytest.mark.parametrize("storage", ["device", "memory", "cache", "stream"])
def test_batches_on_cuda_are_those_of_the_cpu(storage: str, tmp_path: Path) -> None:
    """While the device is busy, so that pinned memory that were used too early would show."""
    data = load_dataset(
        f"folder:{make_folder(tmp_path / 'pets', sizes=tuple((8 + i, 9) for i in range(40)))}",
        channels=3, size=16, progress=lambda items, *_: items, storage=storage, cache_dir=tmp_path,
    )  # fmt: skip
    images = data.train.read()
    data = place(data, CUDA, 10**9, Storage(storage))
    assert data.storage.value == storage
    weight = torch.randn(_width(), _width(), device=CUDA)
    loader = Loader(data.train, torch.device("cuda"), workers=2)
    for epoch in range(3):
        batches = torch.randperm(160, generator=torch.Generator().manual_seed(epoch)).split(7)
        found = []
        for x, y, index in loader.batches(batches):
            assert x.is_cuda
            assert y.is_cuda
            weight = torch.tanh(weight @ weight)
            found.append((x.clone(), y.clone(), index))
        for (x, y, index), wanted in zip(found, batches, strict=True):
            assert torch.equal(index, wanted)
            assert torch.equal(x.cpu(), images[wanted])
            assert torch.equal(y.cpu(), data.train.labels[wanted])


def _width() -> int:
    from fakegpu import active

    return 16 if active() else 4096


def test_the_memory_check_takes_the_network_that_is_trained() -> None:
    """Norms over all ranks keep more than batch norm, and a teacher takes memory too; no rank need be there."""
    peaks, asked = [], []

    def teacher(images: Tensor) -> Tensor:
        asked.append(images.shape)
        return images.flatten(1)

    for synchronized in (False, True):
        model = normed().to(CUDA).to(memory_format=torch.channels_last)
        if synchronized:
            synchronize_norms(model)
        before = frozen(model)
        options: Any = {"precision": "bf16", "channels_last": True, "copies": 2, "teacher": teacher}
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        memory_step(model, (3, 32, 32), CUDA, **options)(64)
        peaks.append(torch.cuda.max_memory_allocated() - start)
        assert torch.cuda.memory_allocated() == start
        assert all(torch.equal(one, other) for one, other in zip(before, frozen(model), strict=True))
    assert peaks[1] > 1.2 * peaks[0]
    assert asked == [(64, 3, 32, 32)] * 2


def frozen(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


NEW = ("momentum_buffer", "exp_avg", "exp_avg_sq", "square_avg", "step")  # what an optimizer has after its first step


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("of", ["loss", "gradient"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_changes_nothing(name: str, of: str, precision: str) -> None:
    """Whether the host skips it or the device; also the first step, of which SGD's fused kernel leaves garbage."""
    model, bad, seen = normed(), [0, 3, 4, 7], []
    recipe = tiny_recipe(optimizer=OPTIMIZERS[name], ema={"horizon": "3steps"}, precision=precision)
    state, job = begin(model, recipe, forward=Faulty(model, bad, of=of), device=CUDA, fused=True)
    if precision == "fp16":
        state.scaler._init_scale = 2.0**8  # at which the good steps are finite
    seen.append(frozen_copy(state))
    fit(state, replace(job, loggers=[AtEachStep(lambda: seen.append(frozen_copy(state)))]), None, StopRequest())
    new = {f"optimizer.{kind}.{path}" for kind in NEW for path, _ in model.named_parameters()}
    free = {"step", "history"} | ({"scaler"} if precision == "fp16" else set())
    for step, (before, after) in enumerate(itertools.pairwise(seen)):
        changed = set(differences(before, after)) - free - (new if step == 0 else set())
        if precision == "fp16" and of == "gradient":  # what the loss says counts; the scaler sees to the rest
            changed = {path for path in changed if path.startswith(("model.", "optimizer.", "ema."))}
            changed = {path for path in changed if "running_" not in path and "num_batches" not in path}
            assert bool(changed) != (step in bad), (step, changed)
        else:
            assert (changed == {"counters"}) == (step in bad), (step, changed)
    assert all(tensor.isfinite().all() for tensor in seen[-1].tensors.values())
    if of == "loss" or precision != "fp16":
        assert state.counters.skipped.tolist() == [4, 1, 2]


def test_fp16_that_never_steps_is_said() -> None:
    model = normed()
    recipe = tiny_recipe(precision="fp16", epochs=20)
    state, job = begin(model, recipe, forward=Faulty(model, range(1000), of="gradient"), device=CUDA, fused=True)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(Diverged, match=r"precision fp16: .* the loss scale fell to 6e-05"):
        fit(state, replace(job, log_every=1), None, StopRequest())
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


@pytest.fixture
def _no_synchronization() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.real_gpu  # test_cuda_counts.py counts them on the fake one
@pytest.mark.usefixtures("_no_synchronization")
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_does_not_wait_for_the_device(name: str, augmentation: str) -> None:
    stage = stage_of(load_recipe(*AUGMENTATIONS[augmentation]), 32, NORMALIZE, 1)
    recipe = tiny_recipe(optimizer=OPTIMIZERS[name], ema={"horizon": "3steps"}, clip={"max_norm": 1.0})
    data = pictures(18, 40)
    state, job = begin(normed(), recipe, place_on_device(data), device=CUDA, fused=True)
    batches = list(job.train.batches([torch.arange(4), torch.arange(4, 8)]))
    for count, (images, labels, index) in enumerate(batches):
        if count == 1:  # the first step makes the state of the optimizer, and constants
            torch.cuda.set_sync_debug_mode("error")
        train_step(state, job, stage, Rows(images, labels, index, slice(0, 4), 4, 1))
        state.step += 1


def test_a_fault_is_found_where_nobody_looks_at_each_step() -> None:
    """At the end of the epoch at the latest, and the run that goes back to it may try as many steps again."""
    for calls, ends in (([5, 6, 7], True), (range(5, 99), False)):
        model, saver = normed(), Kept()
        recipe = tiny_recipe(epochs=3, skip_limit=3)
        state, job = begin(model, recipe, forward=Faulty(model, calls), device=CUDA, fused=True, log_every=1000)
        if ends:
            fit(state, job, saver, StopRequest())
            assert (state.went_back, state.step, len(state.history)) == (True, 12, 3)
        else:
            with pytest.raises(Diverged, match="again"):
                fit(state, job, saver, StopRequest())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make", [deep, normed])
def test_a_state_comes_back(make: type[nn.Module], name: str) -> None:
    recipe = tiny_recipe(ema={"horizon": 0.5}, optimizer=OPTIMIZERS[name])
    state, job = begin(make(), recipe, device=CUDA, fused=True)
    saver = Kept()
    fit(state, job, saver, StopRequest())
    other, _ = begin(make(), recipe, device=CUDA, fused=True)
    saver.restore(other)
    assert not differences(frozen_copy(state), frozen_copy(other))


def test_muon_on_cuda_is_that_of_the_cpu_up_to_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((24, 8), (8, 4, 3, 3), (24, 8))]
    gradients = [torch.randn(weight.shape, generator=generator) for weight in start]
    found = []
    for device in ("cpu", "cuda"):
        weights = [torch.nn.Parameter(weight.clone().to(device)) for weight in start]
        optimizer = MuonWithAux([{"params": weights, "lr": 0.1}], None)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.to(device)
        optimizer.step()
        found.append([weight.detach().cpu() for weight in weights])
    for one, other, weight in zip(*found, start, strict=True):
        assert (one - weight).norm() > 0.01
        assert (one - other).norm() < 0.03 * (one - weight).norm()
