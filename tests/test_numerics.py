"""How a run computes: compiled for every shape of its images, and searches in the arithmetic of train-arch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from training import CPU, deep, tiny_recipe

from effnet_builder.arch.resolve import resolve
from effnet_builder.arch.spec import load_spec
from effnet_builder.cli import compose
from effnet_builder.train.data import load_dataset
from effnet_builder.train.numerics import compiled, numerics

STAGES = 12


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many graphs torch.compile has made, with a backend that runs them eagerly, and how often they ran."""
    found: Counter[str] = Counter()

    def backend(module: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        found["made"] += 1

        def run(*inputs: Any) -> Any:
            found["run"] += 1
            return module(*inputs)

        return run

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: whole(model, backend=backend, **options))
    return found


class Pooled(torch.nn.Module):
    """Takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


def test_each_stage_of_growing_images_is_compiled(graphs: Counter[str]) -> None:
    """torch's own limit is 8 graphs; it would run the others, with the largest images, eagerly."""
    recipe = tiny_recipe(compile=True, epochs=STAGES, progressive={"stages": STAGES, "resolution": 0.5})
    forward = compiled(Pooled())
    with numerics(recipe, CPU):
        for stage in range(STAGES):
            for batch in (4, 5):  # micro-batches of two sizes
                forward(torch.randn(batch, 3, 8 + stage, 8 + stage)).sum().backward()
    assert graphs == {"made": 2 * STAGES, "run": 2 * STAGES}


def test_more_shapes_than_a_run_has_are_an_error_and_not_eager(graphs: Counter[str]) -> None:
    forward = compiled(Pooled())
    with numerics(tiny_recipe(compile=True), CPU), pytest.raises(Exception, match=r"(?i)recompile"):
        for size in range(8, 40):
            forward(torch.randn(2, 3, size, size))
    assert graphs["made"] == 10


def test_each_network_of_a_search_is_compiled(graphs: Counter[str]) -> None:
    with numerics(tiny_recipe(compile=True), CPU):
        for _ in range(STAGES):
            compiled(Pooled())(torch.randn(2, 3, 8, 8))
    assert graphs == {"made": STAGES, "run": STAGES}


def test_nothing_is_set_for_good() -> None:
    import torch._dynamo.config as config

    before = config.recompile_limit, config.fail_on_recompile_limit_hit
    with numerics(tiny_recipe(compile=True), CPU):
        assert config.fail_on_recompile_limit_hit
    assert (config.recompile_limit, config.fail_on_recompile_limit_hit) == before
    with numerics(tiny_recipe(), CPU):
        assert (config.recompile_limit, config.fail_on_recompile_limit_hit) == before


def test_a_search_computes_as_train_arch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp32 is exact, whatever the process had set; the batch is checked against the memory."""
    plan = resolve(
        load_spec("efficientnet-pico", {"scaling.width": 0.1, "scaling.depth": 0.1, "scaling.resolution": 8})
    )
    data = load_dataset("fake:16x3", channels=3, size=8, progress=lambda items, *_: items)
    seen: list[str] = []

    def step(*given: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return train_step(*given)

    from effnet_builder.train.step import train_step

    monkeypatch.setattr("effnet_builder.train.engine.train_step", step)
    torch.set_float32_matmul_precision("medium")
    try:
        assert compose.validation_accuracy(plan, data, tiny_recipe(epochs=1), CPU) is not None
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}
    monkeypatch.setattr("effnet_builder.cli.memory.free_memory", lambda: 1_000_000)
    with pytest.raises(compose.ConfigError, match="a training step on 4 images keeps about"):
        compose.validation_accuracy(plan, data, tiny_recipe(epochs=1), CPU)
    with pytest.raises(compose.ConfigError, match="tf32 is arithmetic of CUDA devices"):
        compose.validation_accuracy(plan, data, tiny_recipe(epochs=1, precision="tf32"), CPU)


def test_deterministic_is_nothing_new_on_a_cpu() -> None:
    with numerics(tiny_recipe(deterministic=True), CPU):
        assert not torch.are_deterministic_algorithms_enabled()
        deep()(torch.randn(2, 3, 8, 8)).sum().backward()
