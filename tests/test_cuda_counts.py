"""What a training step asks of CUDA, counted exactly: PyTorch's own CUDA code over a runtime that computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_cuda import AUGMENTATIONS, NORMALIZE, place_on_device
from training import OPTIMIZERS, begin, normed, pictures, tiny_recipe
from typer.testing import CliRunner

from effnet_builder.arithmetic import deterministic_algorithms
from effnet_builder.cli.train import app
from effnet_builder.train.recipe import load_recipe
from effnet_builder.train.stages import stage_of
from effnet_builder.train.step import Rows, train_step

pytestmark = pytest.mark.cuda(mode="count")

CUDA = torch.device("cuda", 0)
SPEC = "extends: efficientnet-pico\nname: maximum\nscaling: {width: 0.1, depth: 0.1, resolution: 8}\n"
OPTIONS = ["--data", "fake:64x3", "--epochs", "1", "--no-report", "--device", "cuda"]


def counts_of_steps(name: str, augmentation: str, **changes: Any) -> list[Any]:
    """The counts of each step of a training, from the second on: the first one makes the optimizer's state."""
    from fakegpu import counts, reset

    stage = stage_of(load_recipe(*AUGMENTATIONS[augmentation]), 32, NORMALIZE, 1)
    recipe = tiny_recipe(optimizer=OPTIMIZERS[name], ema={"horizon": "3steps"}, clip={"max_norm": 1.0}, **changes)
    state, job = begin(normed(), recipe, place_on_device(pictures(18, 40)), device=CUDA, fused=True)
    found = []
    for images, labels, index in job.train.batches(list(torch.arange(16).split(4))):
        reset()
        train_step(state, job, stage, Rows(images, labels, index, slice(0, 4), 4, 1))
        found.append(counts())
        state.step += 1
    return found[1:]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_host_waits_for_nothing(name: str, augmentation: str) -> None:
    for found in counts_of_steps(name, augmentation):
        assert found.launches > 100
        assert found.synchronizations == 0
        assert found.pageable_copies == 0
        assert found.copies["pinned to device"].calls > 0
        assert found.copies["device to pinned"].calls == 0
        assert sum(found.allocations) == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_is_as_many_launches_as_the_one_before(precision: str) -> None:
    launches = [found.launches for found in counts_of_steps("adamw", "flips, padded crops", precision=precision)]
    assert len(set(launches)) == 1


@pytest.mark.parametrize(("name", "most"), [("adamw", 10), ("rmsprop-tf", 60), ("rmsprop-torch", 60)])
def test_an_optimizer_takes_few_launches(name: str, most: int) -> None:
    """Beyond those of SGD's fused kernel, for any number of parameters: none has a launch for each of them."""
    of_sgd, others = (counts_of_steps(one, "flips, padded crops")[0].launches for one in ("sgd", name))
    assert others - of_sgd <= most


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_deterministic_kernels_are_there(augmentation: str) -> None:
    """Else PyTorch raises: the code that decides that is its CUDA code."""
    with deterministic_algorithms(True, CUDA):
        counts_of_steps("sgd", augmentation)


def test_a_network_without_a_deterministic_kernel_is_refused(tmp_path: Path) -> None:
    spec = tmp_path / "maximum.yaml"
    spec.write_text(f"{SPEC}head: {{pool: max}}\n")
    result = CliRunner().invoke(
        app, [str(spec), *OPTIONS, "--set", "deterministic=true", "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 2, result.output
    message = "--set deterministic=true: deterministic: PyTorch has no deterministic kernel for adaptive_max_pool2d"
    assert message in result.stderr
    assert "which maximum needs" in result.stderr
