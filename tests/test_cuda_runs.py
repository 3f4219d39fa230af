"""The commands on CUDA, from the start to the report: training, resuming, evaluation, prediction, search, memory.

On a GPU where there is one, else on the fake one of tests/fakegpu.
"""

from __future__ import annotations

import gc
import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from effnet_builder.arch.resolve import resolve
from effnet_builder.arch.spec import load_spec
from effnet_builder.cli import evaluate, predict, scale, train

pytestmark = pytest.mark.cuda

SPEC = "extends: efficientnet-pico\nname: small\nscaling: {width: 0.1, depth: 0.1, resolution: 8}\n"
STEP = "effnet_builder.train.engine.train_step"
QUICK = ("--data", "fake:64x3", "--set", "batch_size=16", "--epochs", "2", "--no-report", "--device", "cuda")


def command(app: Any, *arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train_arch(*arguments: object) -> Result:
    return command(train.app, *arguments)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "small.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def finished(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the default options: data digits, stored on the device, with a report."""
    run = tmp_path_factory.mktemp("default") / "run"
    result = train_arch(spec, "--epochs", 1, "--device", "cuda", "--out", run)
    assert result.exit_code == 0, result.output
    assert "on cuda:0" in result.stdout
    assert "kept on cuda:0" in result.stdout
    return run


def test_a_default_run_ends_with_its_report(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["test_accuracy"] < 1  # else there would be no mistake to draw
    report = (finished / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 24
    for name in ("curves.png", "confusion.svg", "misclassified.png", "model.safetensors", "evaluation.json"):
        assert (finished / name).stat().st_size > 0


def test_it_is_evaluated_as_it_was_tested(finished: Path) -> None:
    tested = json.loads((finished / "evaluation.json").read_text())
    result = command(evaluate.app, finished, "--device", "cuda", "--format", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["top1"] == tested["top1"]
    assert found["loss"] == pytest.approx(tested["loss"], rel=1e-6)
    others = command(evaluate.app, finished, "--views", "flip-shift", "--norm-images", 128, "--device", "cuda")
    assert others.exit_code == 0, others.output
    assert "360 images" in others.stdout


def test_it_predicts(finished: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = []
    for device in ("cpu", "cuda"):
        result = command(
            predict.app, finished, tmp_path / "image.png", "--device", device, "--format", "json", "--views", "flip"
        )
        assert result.exit_code == 0, result.output
        found.append([row["probability"] for row in json.loads(result.stdout)[0]["predictions"]])
    assert found[1] == pytest.approx(found[0], rel=1e-2)


@pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")
def test_a_search_trains_on_the_device(spec: Path, tmp_path: Path) -> None:
    result = command(
        scale.app, spec, "--search", "--step", 0.5, "--tolerance", 0.3, "--train", "--data", "fake:64x3", "--epochs", 1,
        "--device", "cuda", "--study", tmp_path / "study",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "on cuda:0" in result.stdout
    assert "kept on cuda:0" in result.stdout
    assert "best: " in result.stdout


def test_a_teacher_is_asked_on_the_device(spec: Path, tmp_path: Path) -> None:
    assert train_arch(spec, *QUICK, "--out", tmp_path / "teacher").exit_code == 0
    options = ("--set", "distill={alpha: 0.5}", "--teacher", tmp_path / "teacher" / "model.safetensors")
    result = train_arch(spec, *QUICK, *options, "--out", tmp_path / "student")
    assert result.exit_code == 0, result.output


def test_storages_train_alike(spec: Path, tmp_path: Path) -> None:
    from folders import make_folder

    folder = make_folder(tmp_path / "images", sizes=tuple((10 + i, 9) for i in range(16)))
    losses = {}
    for storage in ("device", "memory", "cache", "stream"):
        run = tmp_path / storage
        result = train_arch(
            spec, *QUICK[2:], "--data", f"folder:{folder}", "--storage", storage, "--workers", 1, "--out", run
        )
        assert result.exit_code == 0, result.output
        losses[storage] = [row["train_loss"] for row in metrics(run) if "train_loss" in row]
    assert len(losses["device"]) == 2
    for storage in ("memory", "cache", "stream"):
        assert losses[storage] == pytest.approx(losses["device"], rel=1e-3)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_precisions_train_alike(spec: Path, precision: str, tmp_path: Path) -> None:
    losses = {}
    for name in ("fp32", precision):
        result = train_arch(spec, *QUICK, "--set", f"precision={name}", "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        losses[name] = [row["train_loss"] for row in metrics(tmp_path / name) if "train_loss" in row]
    if precision == "fp16":  # the first steps are those that find the scale of the loss
        assert all(loss < 10 for loss in losses[precision])
    else:
        assert losses[precision] == pytest.approx(losses["fp32"], rel=0.1)


@pytest.mark.parametrize("recipe", ["cifar10-fast7", "cifar10-long", "imagenet-b0", "finetune", "notebook"])
def test_shipped_recipes_run(spec: Path, recipe: str, tmp_path: Path) -> None:
    options = (*QUICK[:4], "--epochs", 1, *QUICK[6:], "--recipe", recipe, "--set", "schedule={type: constant}")
    result = train_arch(spec, *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop", "muon"])
def test_a_stopped_run_is_resumed_to_the_same_bits(
    spec: Path, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aux = ", aux: {type: adamw, lr: 0.01}" if optimizer == "muon" else ""
    options = (*QUICK, "--set", f"optimizer={{type: {optimizer}, lr: 0.01{aux}}}", "--set", "deterministic=true")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train_arch(spec, *options, "--out", whole).exit_code == 0
    with monkeypatch.context() as patched:
        patched.setattr(STEP, at_call(5, lambda: signal.raise_signal(signal.SIGTERM)))
        result = train_arch(spec, *options, "--out", stopped)
    assert result.exit_code == 143, result.output
    assert "step 5 is saved" in result.stderr
    result = train_arch("--resume", stopped)
    assert result.exit_code == 0, result.output
    assert sha256(whole / "model.safetensors") == sha256(stopped / "model.safetensors")
    for name in ("metrics.csv", "metrics.jsonl"):
        assert (whole / name).read_text() == (stopped / name).read_text()


def at_call(number: int, act: Callable[[], object]) -> Callable[..., Any]:
    """train_step, which also acts in its n-th call."""
    from effnet_builder.train.step import train_step

    calls = iter(range(1, 10**6))

    def step(*given: Any) -> Any:
        if next(calls) == number:
            act()
        return train_step(*given)

    return step


@pytest.fixture
def memory() -> Iterator[Memory]:
    yield (limited := Memory())
    limited.free()


class Memory:
    """A limit of PyTorch's own on the memory of the device, and tensors that fill it up to there."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []

    def limit(self, megabytes: float) -> None:
        gc.collect()  # what earlier tests left would give room later
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + megabytes * 2**20) / total)

    def fill(self, *sizes: int) -> None:
        self.limit(2)
        for size in sizes or (2**20, 2**16, 2**12, 2**9):
            try:
                while True:
                    self.tensors.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                pass

    def free(self) -> None:
        self.tensors.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


OF_384 = ("--data", "fake:384x3", "--set", "batch_size=128", "--epochs", "1", "--no-report", "--device", "cuda")


def test_a_batch_that_does_not_fit_is_taken_in_parts(spec: Path, tmp_path: Path, memory: Memory) -> None:
    memory.limit(22)
    result = train_arch(spec, *OF_384, "--out", tmp_path / "refused")
    assert result.exit_code == 2, result.output
    assert (
        "a training step on 128 images keeps about 24.87 MB and does not fit into the memory of cuda:0" in result.stderr
    )
    assert "give --fit-batch, or accumulate: " in result.stderr
    memory.limit(22)
    result = train_arch(spec, *OF_384, "--fit-batch", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "batches of 128 are taken in " in result.stdout
    assert (tmp_path / "run" / "result.json").exists()


def test_an_evaluation_that_does_not_fit_is_made_smaller(
    spec: Path, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of the whole batch may not, on one device of many, where a part of the training does."""
    for module in ("cli.memory", "train.stages"):
        monkeypatch.setattr(f"effnet_builder.{module}.evaluation_batch", lambda recipe: 4096)
    options = ("--data", "fake:1024x3", "--set", "batch_size=16", "--set", "valid_fraction=0.9", *OF_384[4:])
    memory.limit(28)
    result = train_arch(spec, *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "evaluation takes " in result.stdout
    assert " images at a time: 921 do not fit into the memory of cuda:0" in result.stdout


def test_out_of_memory_in_a_step_is_one_line_about_the_recipe_that_is_used(
    spec: Path, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STEP, at_call(2, memory.fill))
    options = ("--set", "accumulate=2", "--save-every", "1", "--set", "precision=bf16")
    result = train_arch(spec, *OF_384, *options, "--out", tmp_path / "run")
    assert result.exit_code == 1, result.output
    assert result.stderr.splitlines()[-1].startswith("out of memory: a step on 64 images in bf16 keeps about ")
    assert "accumulate: 4, which takes 32 at a time; step 1 is saved; to go on: " in result.stderr


def test_an_evaluation_that_runs_out_of_memory_continues_with_fewer_images(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effnet_builder.train.predictions import infer

    def infer_few(model: Any, images: torch.Tensor, how: Any) -> torch.Tensor:
        if len(images) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return infer(model, images, how)

    with monkeypatch.context() as patched:
        patched.setattr("effnet_builder.train.predictions.infer", infer_few)
        result = train_arch(spec, *OF_384, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "the evaluation ran out of memory; it continues with 19 images at a time" in result.stderr
    assert train_arch(spec, *OF_384, "--out", tmp_path / "whole").exit_code == 0
    losses = [metrics(tmp_path / name)[-1]["valid_loss"] for name in ("run", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_out_of_memory_in_an_evaluation_costs_no_epoch(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patched:
        patched.setattr("effnet_builder.train.predictions.infer", fails)
        result = train_arch(spec, *OF_384, "--out", tmp_path / "run")
    assert result.exit_code == 1, result.output
    assert "out of memory, evaluating 128 images at a time; step 2 is saved; to go on: " in result.stderr
    result = train_arch("--resume", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "going on after step 2" in result.stdout
    assert train_arch(spec, *OF_384, "--out", tmp_path / "whole").exit_code == 0
    assert sha256(tmp_path / "run" / "model.safetensors") == sha256(tmp_path / "whole" / "model.safetensors")


def test_out_of_memory_in_other_commands_is_one_line(finished: Path, memory: Memory, tmp_path: Path) -> None:
    Image.new("L", (12, 12)).save(tmp_path / "image.png")
    torch.zeros(1, device="cuda")
    memory.fill()
    result = command(evaluate.app, finished, "--device", "cuda", "--storage", "memory")
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("CUDA out of memory")
    assert result.stderr.splitlines()[-1].endswith("; give a smaller --batch-size")
    result = command(predict.app, finished, tmp_path / "image.png", "--device", "cuda")
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("out of memory: CUDA out of memory")


def test_a_report_that_fails_costs_nothing_else(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    monkeypatch.setattr("effnet_builder.cli.finish.write_report", fails)
    options = [option for option in QUICK if option != "--no-report"]
    result = train_arch(spec, *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "no report: TypeError: can't convert cuda:0" in result.stderr
    assert (tmp_path / "run" / "result.json").exists()


def test_deterministic_kernels_are_asked_for_while_training(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    for value in ("true", "false"):
        run = tmp_path / value
        monkeypatch.setattr(STEP, at_call(2, lambda: seen.append(torch.are_deterministic_algorithms_enabled())))
        assert train_arch(spec, *QUICK, "--set", f"deterministic={value}", "--out", run).exit_code == 0
    assert seen == [True, False]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_latency_is_that_of_the_device(precision: Any, spec: Path) -> None:
    from effnet_builder.models.latency import measure_latency

    found = measure_latency(resolve(load_spec(spec)), 2, "cuda", precision)
    assert found.median > 0
    assert f"batch size 2, {precision}, cuda, CUDA graph" in str(found)
