"""`eval-arch` and `predict-arch` on a run: figures with an oracle, and mistakes in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import classification_report
from torch import nn
from typer.testing import CliRunner, Result

from effnet_builder import build_model
from effnet_builder.cli.evaluate import app as eval_app
from effnet_builder.cli.predict import app as predict_app
from effnet_builder.cli.train import app as train_app
from effnet_builder.train.data import load_dataset
from effnet_builder.train.images import DataError
from effnet_builder.train.recipe import load_recipe

SMALL = "extends: efficientnet-pico\nname: small\nscaling: {width: 0.2, depth: 0.1, resolution: 16}\n"


def eval_arch(*arguments: object) -> Result:
    return CliRunner().invoke(eval_app, [str(argument) for argument in arguments])


def predict_arch(*arguments: object) -> Result:
    return CliRunner().invoke(predict_app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs on digits, with an average of the weights."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "small.yaml").write_text(SMALL)
    arguments = [
        folder / "small.yaml", "--epochs", 3, "--set", "ema={horizon: 1ep}", "--out", folder / "run", "--no-report"
    ]  # fmt: skip
    result = CliRunner().invoke(train_app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture(scope="module")
def answers(run: Path) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Truth, logits and images of the test set."""
    data = load_dataset("digits", channels=3, size=16, progress=lambda items, *_: items)
    images = nn.functional.interpolate(data.test.read() / 255, (16, 16), mode="bilinear")
    return data.test.labels.numpy(), logits_of(run, images), images


@torch.no_grad()
def logits_of(run: Path, images: torch.Tensor) -> torch.Tensor:
    """By the network that `build_model` makes of the run's weights, for images from 0 to 1."""
    normalize = load_recipe(run / "recipe.yaml").normalize
    assert normalize is not None
    mean, std = (torch.tensor(values)[:, None, None] for values in (normalize.mean, normalize.std))
    logits: torch.Tensor = build_model(run / "model.safetensors").eval()((images - mean) / std)
    return logits


def test_the_figures_are_scikit_learns(run: Path, answers: tuple[np.ndarray, torch.Tensor, torch.Tensor]) -> None:
    truth, logits, _ = answers
    result = eval_arch(run, "--format", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    report = classification_report(truth, logits.argmax(1).numpy(), output_dict=True, zero_division=0)
    assert found["top1"] == report["accuracy"]
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, torch.from_numpy(truth))), rel=1e-4)
    for i, one in enumerate(found["classes"]):
        wanted = report[str(i)]
        assert (one["precision"], one["recall"], one["f1"], one["support"]) == pytest.approx(
            (wanted["precision"], wanted["recall"], wanted["f1-score"], wanted["support"])
        )
    assert found["top1"] == json.loads((run / "result.json").read_text())["test_accuracy"]


def test_text_for_people(run: Path) -> None:
    lines = eval_arch(run).stdout.splitlines()
    assert lines[0] == "small, the weights that it kept, on digits, test: 360 images"
    assert lines[1].startswith("top-1 ")
    assert lines[3].split() == ["class", "images", "precision", "recall", "f1"]
    assert len(lines) == 5 + 10


def test_splits_are_those_of_the_run(run: Path) -> None:
    counts = {split: json.loads(eval_arch(run, "--split", split, "--format", "json").stdout) for split in
              ("train", "valid", "test")}  # fmt: skip
    assert [counts[split]["count"] for split in ("train", "valid", "test")] == [1294, 143, 360]
    result = json.loads((run / "result.json").read_text())
    assert counts["valid"]["top1"] == result["valid_accuracy"]


def test_checkpoints_and_the_network_without_the_average(run: Path) -> None:
    kept, last, raw = (
        json.loads(eval_arch(run, *options, "--format", "json").stdout)
        for options in ((), ("--checkpoint", "last"), ("--raw",))
    )
    assert last == kept
    assert raw["top1"] == json.loads((run / "result.json").read_text())["raw_test_accuracy"]
    assert raw["loss"] != kept["loss"]
    best = eval_arch(run, "--checkpoint", "best")
    assert best.exit_code == 0
    assert "the average of step " in best.stdout


def test_views_and_fresh_statistics_change_the_figures(run: Path) -> None:
    losses = [
        json.loads(eval_arch(run, *options, "--format", "json").stdout)["loss"]
        for options in ((), ("--views", "flip"), ("--views", "flip-shift"), ("--norm-images", 500))
    ]
    assert len(set(losses)) == 4


def test_a_file_of_weights_alone(run: Path, tmp_path: Path) -> None:
    weights = shutil.copy(run / "model.safetensors", tmp_path / "w.safetensors")
    alone = eval_arch(weights, "--data", "digits", "--format", "json")
    assert alone.exit_code == 0, alone.output
    assert json.loads(alone.stdout)["top1"] == json.loads(eval_arch(run, "--format", "json").stdout)["top1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--checkpoint", "lats"], "no such checkpoint; expected kept, last, best, or one of the steps"),
        (["{run}", "--data", "fake:12x3"], "has 3 classes, the network tells 10 apart"),
        (["{run}", "--data", "nothing"], "no such source"),
        (["{run}/recipe.yaml"], "recipe.yaml"),
        (["{run}/model.safetensors"], "--data: missing: a file of weights does not say on which data"),
        (["{run}/model.safetensors", "--raw", "--data", "digits"], "is no run directory, and so has no checkpoints"),
        (["{run}/checkpoints"], "is neither a run directory nor a .safetensors file"),
        (
            ["{run}/model.safetensors", "--data", "digits", "--split", "valid"],
            "does not say which images were held out",
        ),
        (["{run}", "--device", "cuda"], "--device cuda: torch finds no CUDA device here"),
    ],
)
def test_mistakes(run: Path, arguments: list[str], message: str) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    result = eval_arch(*(argument.format(run=run) for argument in arguments))
    assert (result.exit_code, "Traceback" in result.output) == (2, False), result.output
    assert message in result.stderr


def test_images_that_are_gone_meanwhile_are_a_sentence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise DataError("images/7.png cannot be read: No such file or directory")

    monkeypatch.setattr("effnet_builder.train.predictions.predict", gone)
    result = eval_arch(run)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "images/7.png cannot be read: No such file or directory\n"


def test_classes_with_other_names_are_refused(run: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for i in range(10):
            folder = tmp_path / "letters" / part / f"letter-{i}"
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(folder / "a.png")
    result = eval_arch(run, "--data", f"folder:{tmp_path / 'letters'}")
    assert result.exit_code == 2
    assert "its classes have other names: letter-0 for 0, letter-1 for 1" in result.stderr


def test_predictions_of_image_files(
    run: Path, tmp_path: Path, answers: tuple[np.ndarray, torch.Tensor, torch.Tensor]
) -> None:
    digits, seen = load_digits(), (answers[2][:3] * 255).round().to(torch.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, seen, strict=True):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    result = predict_arch(run, *paths, "--top", 2, "--format", "json")
    assert result.exit_code == 0, result.output
    shares = logits_of(run, seen / 255).softmax(1)
    for i, row in enumerate(json.loads(result.stdout)):
        assert row["image"] == str(paths[i])
        assert len(row["predictions"]) == 2
        top = row["predictions"][0]
        assert top["class"] == str(digits.target_names[int(shares[i].argmax())])
        assert top["probability"] == pytest.approx(float(shares[i].max()), rel=1e-4)
    text = predict_arch(run / "model.safetensors", paths[0])
    assert text.exit_code == 0, text.output
    assert text.stdout.splitlines()[0] == str(paths[0])
    assert len(text.stdout.splitlines()) == 6


def test_images_that_are_none_are_all_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    result = predict_arch(run, tmp_path / "text.png", tmp_path / "nowhere.jpg")
    assert result.exit_code == 2
    assert f"{tmp_path / 'text.png'}: not a readable image" in result.stderr
    assert f"{tmp_path / 'nowhere.jpg'}: not a readable image" in result.stderr
    assert "2 problems; nothing was predicted." in result.stderr


def test_help_names_every_option() -> None:
    text = eval_arch("--help").stdout
    for option in (
        "--data",
        "--split",
        "--checkpoint",
        "--raw",
        "--views",
        "--norm-images",
        "--batch-size",
        "--format",
    ):
        assert option in text
    assert "IMAGE" in predict_arch("--help").stdout
