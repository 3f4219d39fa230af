"""Numbers of the device against those of the CPU. Each check has a bound, and says how far it is from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from effnet_builder import load_spec, resolve
from effnet_builder.arithmetic import autocast, float32_products
from effnet_builder.models.compare import _randomize_norm
from effnet_builder.models.network import Network
from effnet_builder.precisions import Precision
from effnet_builder.train.draws import Draws, hashed_normal
from effnet_builder.train.images import in_memory
from effnet_builder.train.loading import Loader
from effnet_builder.train.mixing import mix_batch
from effnet_builder.train.numerics import numerics
from effnet_builder.train.predictions import predict
from effnet_builder.train.recipe import load_recipe
from effnet_builder.train.stages import evaluation, stage_of

from .results import Rows, Values, within
from .setting import Setting
from .training import CLASSES, NORMALIZE, new_training, random_images, steps

CPU = torch.device("cpu")
NETWORKS = ("efficientnet-b0", "mobilenet-v3-large", "efficientnetv2-s")
LAYOUTS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
PRECISIONS: dict[Precision, float] = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 1e-1, "fp16": 2e-2}
"""Bounds of the logits' relative difference from float32 on the CPU."""
INPUTS: dict[str, tuple[str, dict[str, object]]] = {
    "crop, flip, cutout": ("cifar10-fast7", {}),
    "resized crop, AutoAugment": ("imagenet-b0", {}),
    "TrivialAugment, mixup or cutmix": ("cifar10-long", {}),
    "RandAugment": ("cifar10-fast7", {"augment.policy": {"type": "rand_augment", "interpolation": "bilinear"}}),
    "noise erasing": ("cifar10-fast7", {"augment.erasing": {"value": "noise"}}),
    "mixup": ("cifar10-fast7", {"mix": {"mixup": 0.4}}),
    "cutmix": ("cifar10-fast7", {"mix": {"cutmix": 1.0}}),
}
OPTIMIZERS: dict[str, tuple[dict[str, object], float]] = {
    "sgd": ({"type": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}, 1e-2),
    "adamw": ({"type": "adamw", "lr": 0.001, "eps": 1e-3}, 1e-2),
    "rmsprop": ({"type": "rmsprop", "lr": 0.001}, 1e-2),
    "rmsprop, torch's eps": ({"type": "rmsprop", "lr": 0.001, "tf_eps": False}, 1e-2),
    "muon": ({"type": "muon", "lr": 0.02, "aux": {"type": "adamw", "lr": 0.001, "eps": 1e-3}}, 2e-1),
}
"""Settings, and bounds of the relative difference after four steps. A large eps, because the first steps of AdamW take
the sign of a gradient, which is rounding where the gradient is 0; Muon computes in bfloat16."""


@dataclass(frozen=True)
class _Sizes:
    """Images in px, images of a batch, steps."""

    size: int = 65
    batch: int = 16
    steps: int = 12


_TINY = _Sizes(33, 4, 4)
_VISIBLE = 0.02  # of a normalized pixel: a little more than one of 256 levels


def check(setting: Setting, rows: Rows) -> None:
    """Check network, gradients, precisions, input path, evaluation, optimizers, skipped steps, deterministic mode."""
    warnings.filterwarnings("ignore")
    device = torch.device(setting.device)
    networks, sizes = (("efficientnet-pico",), _TINY) if setting.tiny else (NETWORKS, _Sizes())
    for case, work in _cases(device, networks, sizes):
        rows.measure(case, work)
    case = "logits in float32, compiled"
    if setting.real:
        rows.measure(case, partial(_compiled, device, networks[0], sizes), seconds=20)
    else:
        rows.skip(case, setting.needs_real)


def _cases(
    device: torch.device, networks: tuple[str, ...], sizes: _Sizes
) -> Iterator[tuple[str, Callable[[], Values]]]:
    for name in networks:
        for layout in LAYOUTS:
            yield f"logits in float64, {name}, {layout}", partial(_logits, device, name, layout, sizes)
        yield f"gradients in float64, {name}", partial(_gradients, device, name, sizes)
    for precision, bound in PRECISIONS.items():
        if precision != "tf32" or device.type == "cuda":
            yield (
                f"logits in {precision}, {networks[0]}",
                partial(_rounded, device, networks[0], precision, bound, sizes),
            )
    for name, (recipe, changes) in INPUTS.items():
        yield f"images, {name}", partial(_images, device, recipe, changes)
    yield "hashed normal numbers", partial(_hashed_normal, device)
    yield "evaluation", partial(_evaluation, device)
    for name, (optimizer, bound) in OPTIMIZERS.items():
        yield f"four steps, {name}", partial(_steps, device, optimizer, bound, sizes)
    for precision in ("bf16", "tf32") if device.type == "cuda" else ("bf16",):
        yield f"finite, sgd, {precision}", partial(_finite, device, precision, OPTIMIZERS["sgd"][0], sizes)
    for name, (optimizer, _) in OPTIMIZERS.items():
        yield f"finite, {name}, fp16", partial(_finite, device, "fp16", optimizer, sizes)
    yield "deterministic, the same bits twice", partial(_deterministic, device, sizes)


def _relative(found: Tensor, expected: Tensor) -> float:
    """Return `max |found - expected| / max |expected|`."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _network(name: str) -> Network:
    """Return a network of float64 whose norms have random weights and statistics, so that its outputs are not 0."""
    torch.manual_seed(0)
    spec = load_spec(name).vary({"head.dropout": 0.0, "drop_path.rate": 0.0})  # whose masks differ between devices
    model, generator = Network(resolve(spec, num_classes=CLASSES)).double().eval(), torch.Generator().manual_seed(0)
    for module in model.modules():
        _randomize_norm(module, generator)
    return model


def _inputs(count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=generator)


@torch.no_grad()
def _logits(device: torch.device, name: str, layout: str, sizes: _Sizes) -> Values:
    model, images, memory_format = _network(name), _inputs(2, sizes.size), LAYOUTS[layout]
    expected = model(images)
    model.to(device).to(memory_format=memory_format)
    return within(_relative(model(images.to(device).to(memory_format=memory_format)), expected), 1e-9)


def _gradients(device: torch.device, name: str, sizes: _Sizes) -> Values:
    """Compare all gradients and norm statistics of a training pass; in float64, so that only a wrong kernel differs."""
    results = []
    for place in (CPU, device):
        model = _network(name).to(place).to(memory_format=torch.channels_last).train()
        images = _inputs(4, sizes.size).to(place).contiguous(memory_format=torch.channels_last)
        F.cross_entropy(model(images), torch.arange(4, device=place)).backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        results.append([_flat(gradients), _flat(model.buffers())])
    (gradient, statistics), (found, found_statistics) = results
    return within(max(_relative(found, gradient), _relative(found_statistics, statistics)), 1e-8)


@torch.no_grad()
def _rounded(device: torch.device, name: str, precision: Precision, bound: float, sizes: _Sizes) -> Values:
    model, images = _network(name).float(), _inputs(8, sizes.size).float()
    expected = model(images)
    model.to(device).to(memory_format=torch.channels_last)
    with float32_products(precision, device), autocast(precision, device):
        found = model(images.to(device).contiguous(memory_format=torch.channels_last))
    return within(_relative(found, expected), bound)


@torch.no_grad()
def _compiled(device: torch.device, name: str, sizes: _Sizes) -> Values:
    model, images = _network(name).float().to(device), _inputs(8, sizes.size).float().to(device)
    with float32_products("fp32", device):
        return within(_relative(torch.compile(model, fullgraph=True)(images), model(images)), 1e-2)


def _images(device: torch.device, recipe: str, changes: Mapping[str, object]) -> Values:
    """Compare augmented and mixed images, from the same draws; the difference is the fraction of pixels that differ."""
    stage, images, labels = (
        stage_of(load_recipe(recipe, changes), 32, NORMALIZE, 1),
        random_images(64, 40),
        torch.arange(64),
    )
    results = []
    for place in (CPU, device):
        draws = Draws(5, 64, device=place)
        changed = stage.inputs.train(images.to(place), labels, 1, draws)
        mixed, targets = mix_batch(changed, (labels % CLASSES).to(place), CLASSES, stage.mix, draws)
        results.append((mixed.cpu().double(), targets.cpu().double()))
    (expected, expected_targets), (found, targets) = results
    pixels, targets = (found - expected).abs(), (targets - expected_targets).abs().max()
    targets_agree = bool(targets < 1e-6)
    share = (pixels > _VISIBLE).double().mean().item()
    return within(share, 1e-3 if targets_agree else -1.0, largest=pixels.max().item(), targets_agree=targets_agree)


def _hashed_normal(device: torch.device) -> Values:
    seeds = torch.arange(8)
    return within(_relative(hashed_normal(seeds.to(device), 3, 16, 16), hashed_normal(seeds, 3, 16, 16)), 1e-4)


def _evaluation(device: torch.device) -> Values:
    """Compare the loss of each image, and the predicted class."""
    model, data = _network("efficientnet-pico").float(), in_memory(random_images(96, 40), torch.arange(96) % CLASSES)
    how = evaluation(load_recipe("cifar10-fast7", {"batch_size": 40}), 32, NORMALIZE)
    results = []
    for place in (CPU, device):
        model.to(place).to(memory_format=torch.channels_last)
        with float32_products("fp32", place):
            results.append(predict(model, Loader(data, place), how))
    expected, found = results
    agreement = (found.top[:, 0] == expected.top[:, 0]).double().mean().item()
    return within(_relative(found.losses, expected.losses), 1e-3, same_class=agreement)


def _steps(device: torch.device, optimizer: Mapping[str, object], bound: float, sizes: _Sizes) -> Values:
    """Compare gradient norms, loss and what the weights became; without dropout, whose masks differ."""
    changes = {"optimizer": optimizer, "dropout": 0.0, "drop_path_rate": 0.0}
    norms, losses, ends = [], [], []
    for place in (CPU, device):
        state, job = new_training(place, "efficientnet-pico", changes, size=32, batch=sizes.batch)
        start = _flat(state.model.parameters())
        with numerics(job.recipe, place):
            norms.append(torch.stack([norm.cpu() for norm in steps(state, job, 4)]))
        losses.append(state.counters.epoch[0].cpu())
        ends.append(_flat(state.model.parameters()) - start)
    moved = ((ends[1] - ends[0]).norm() / ends[0].norm()).item()
    others = max(_relative(norms[1], norms[0]), _relative(losses[1], losses[0]))
    return within(max(moved, others), bound, gradient_norms_and_loss=others)


def _finite(device: torch.device, precision: Precision, optimizer: Mapping[str, object], sizes: _Sizes) -> Values:
    """Count the elements of the state that are not finite. In fp16 the first steps overflow, and must leave nothing."""
    _fill_free_memory_with_nan(device)
    changes = {"precision": precision, "optimizer": optimizer}
    state, job = new_training(device, "efficientnet-pico", changes, size=32, batch=sizes.batch)
    with numerics(job.recipe, device):
        norms = [norm.item() for norm in steps(state, job, sizes.steps)]
    tensors = [tensor for tensor in state.checkpoint({}).tensors.values() if tensor.is_floating_point()]
    skipped = sum(not torch.tensor(norm).isfinite() for norm in norms)
    return within(float(sum(int((~tensor.isfinite()).sum()) for tensor in tensors)), 0.0, overflowed_steps=skipped)


def _deterministic(device: torch.device, sizes: _Sizes) -> Values:
    """Count the elements that differ after four steps in bf16."""
    ends = []
    for _ in range(2):
        changes = {"deterministic": True, "precision": "bf16"}
        state, job = new_training(device, "efficientnet-pico", changes, size=32, batch=sizes.batch)
        with numerics(job.recipe, device):
            list(steps(state, job, 4))
        ends.append(_flat(state.model.state_dict().values()))
    return within(float((ends[0] != ends[1]).sum().item()), 0.0)


def _fill_free_memory_with_nan(device: torch.device) -> None:
    """Let memory that is read before it is written show: the allocator hands out again what was freed last."""
    if device.type == "cuda":
        blocks = [torch.full((count,), float("nan"), device=device) for count in [2**17] * 64 + [2**22] * 8]
        del blocks


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return all elements as float64 on the CPU."""
    return torch.cat([tensor.detach().cpu().double().flatten() for tensor in tensors])
