"""`train-arch` from the command line to a run directory that builds and loads again."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from folders import make_folder
from safetensors import safe_open
from typer.testing import CliRunner, Result
from writing import WriteYaml

from effnet_builder import build_model, load_spec
from effnet_builder.cli.train import app
from effnet_builder.train.augment import InputPath
from effnet_builder.train.data import load_dataset
from effnet_builder.train.loading import Loader
from effnet_builder.train.metrics import measure
from effnet_builder.train.predictions import Evaluation, predict
from effnet_builder.train.recipe import load_recipe

SMALL = "extends: efficientnet-pico\nname: small\nscaling: {width: 0.2, depth: 0.1, resolution: 16}\n"
COMMAND = [sys.executable, "-c", "from effnet_builder.cli.train import main; main()"]


def train_arch(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_on_digits(write_yaml: WriteYaml, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train_arch(write_yaml(SMALL), "--epochs", 3, "--best", 1, "--out", run)
    assert result.exit_code == 0, result.output
    assert "digits: 1,294 images to train, 143 to validate, 360 to test" in result.stdout
    assert "epoch 3/3" in result.stdout
    assert f"wrote {run}" in result.stdout
    assert sorted(os.listdir(run)) == [
        ".lock", "checkpoints", "confusion.svg", "curves.png", "curves.svg", "evaluation.json", "metrics.csv",
        "metrics.jsonl", "misclassified.png", "model.safetensors", "plan.json", "recipe.yaml", "report.html", "result.json",
        "run.json", "spec.yaml", "times.csv",
    ]  # fmt: skip
    assert "small on digits" in (run / "report.html").read_text()
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    recipe = load_recipe(run / "recipe.yaml")
    assert recipe.epochs == 3
    assert recipe.normalize is not None

    # the run alone rebuilds the network and its test accuracy
    model = build_model(run / "model.safetensors")
    assert model.plan.spec == load_spec(run / "spec.yaml")
    said = model.plan.spec.normalization
    assert said is not None
    assert (said.mean, said.std) == (recipe.normalize.mean, recipe.normalize.std)
    data = load_dataset("digits", channels=3, size=16, progress=lambda items, total, description: items)
    how = Evaluation(InputPath(16, recipe.normalize, recipe.augment), 64)
    metrics = measure(predict(model, Loader(data.test, torch.device("cpu")), how), 10)
    reported = json.loads((run / "result.json").read_text())
    assert metrics.top1 == reported["test_accuracy"]
    assert f"test accuracy {metrics.top1:.2%}" in result.stdout
    assert metrics.top1 > 0.3  # chance is 0.1
    with safe_open(run / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == list("0123456789")


def test_a_run_on_a_folder_takes_its_classes(write_yaml: WriteYaml, tmp_path: Path) -> None:
    data, run = make_folder(tmp_path / "pets"), tmp_path / "run"
    result = train_arch(write_yaml(SMALL), "--data", f"folder:{data}", "--epochs", 1, "--out", run, "--resolution", 12)
    assert result.exit_code == 0, result.output
    assert "num_classes 10 -> 2: pets has 2 classes" in result.stdout
    assert "recipe small-images" in result.stdout
    assert load_spec(run / "spec.yaml").head.num_classes == 2
    assert load_spec(run / "spec.yaml").scaling.resolution == 12
    assert json.loads((run / "run.json").read_text())["data"]["classes"] == ["cat", "dog"]


def test_the_same_command_gives_the_same_weights(write_yaml: WriteYaml, tmp_path: Path) -> None:
    for run in ("a", "b"):
        assert train_arch(write_yaml(SMALL), "--epochs", 1, "--out", tmp_path / run, "--no-report").exit_code == 0
    for name in ("model.safetensors", "metrics.csv", "metrics.jsonl", "evaluation.json", "recipe.yaml", "spec.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_runs_are_numbered(write_yaml: WriteYaml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = write_yaml(SMALL)
    for number in (1, 2):
        assert f"wrote runs/small-digits-{number}" in train_arch(spec, "--epochs", 1, "--no-report").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["efficientnet-pico", "--data", "mnits"], "--data mnits: no such source; there are digits, folder:DIR"),
        (["efficientnet-pico", "--data", "folder:/nowhere"], "expected /nowhere/train/CLASS/IMAGE files"),
        (["efficientnet-pico", "--recipe", "notebok"], "did you mean 'notebook'?"),
        (["efficientnet-pico", "--epochs", "0"], "--epochs 0: epochs = 0: expected a whole number from 1 to 100,000"),
        (["efficientnet-pic"], "did you mean 'efficientnet-pico'?"),
        (["efficientnet-pico", "--device", "tpu"], "tpu"),
        (
            ["efficientnet-pico", "--resolution", "0"],
            "--resolution 0: scaling.resolution = 0: expected a number from 1",
        ),
        (["efficientnet-pico", "--data", "folder:~nosuchuser/x"], "expected ~nosuchuser/x/train/CLASS/IMAGE files"),
        (["efficientnet-pico", "--out", "x" * 300], "File name too long"),
        ([], "SPEC: missing; expected a spec, or --resume RUN"),
        (["efficientnet-pico", "--resume", "x"], "goes on with the network of the run; leave out SPEC"),
        (["--resume", "nowhere"], "--resume nowhere: is no run directory"),
        (["efficientnet-pico", "--set", "batchsize=3"], "--set batchsize=3: batchsize: unknown key; did you mean"),
        (["efficientnet-pico", "--set", "epochs=3", "--epochs", "4"], "set twice by the arguments"),
        (["efficientnet-pico", "--set", "precision=tf32"], "precision: tf32 is arithmetic of CUDA devices"),
        (["efficientnet-pico", "--teacher", "x.safetensors"], "the recipe has no distill"),
        (["efficientnet-pico", "--set", "distill={alpha: 0.5}"], "--teacher: missing: the recipe digits learns from"),
        (["efficientnet-pico", "--set", "batch_size=4", "--set", "accumulate=4"], "do not give each of"),
    ],
)
def test_mistakes_exit_with_2_before_anything_is_written(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train_arch(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    result = train_arch("efficientnet-pico", "--out", tmp_path / "run")
    assert (result.exit_code, "exists already" in result.stderr) == (2, True)


def test_normalization_for_other_channels_is_refused(write_yaml: WriteYaml, tmp_path: Path) -> None:
    spec = write_yaml(SMALL + "in_channels: 1\n")
    result = train_arch(spec, "--recipe", "notebook", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "notebook.yaml:12:12 normalize: has 3 channels, the network takes 1" in result.stderr


def test_divergence_is_one_sentence(write_yaml: WriteYaml, tmp_path: Path) -> None:
    recipe = write_yaml(
        "extends: digits\nname: wild\noptimizer: {lr: 100, momentum: 0.99}\nskip_limit: 3\n", "wild.yaml"
    )
    result = train_arch(write_yaml(SMALL), "--recipe", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "3 steps in a row, up to step" in result.stderr
    assert "finite number, again; try a lower lr than 100; step" in result.stderr
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_batch_that_does_not_fit_is_refused_or_split(
    write_yaml: WriteYaml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effnet_builder.cli.memory.free_memory", lambda: 10_000_000)
    spec, run = write_yaml(SMALL), tmp_path / "run"
    result = train_arch(spec, "--epochs", 1, "--out", run, "--no-report")
    assert result.exit_code == 2
    message = "digits.yaml:7:13 batch_size: a training step on 64 images keeps about"
    assert message in result.stderr
    fits = int(re.search(r"; (\d+) images do: give --fit-batch, or accumulate: \d+", result.stderr)[1])
    assert not run.exists()
    result = train_arch(spec, "--epochs", 1, "--out", run, "--no-report", "--fit-batch")
    assert result.exit_code == 0, result.output
    assert load_recipe(run / "recipe.yaml").accumulate == -(-64 // fits)


def test_learning_from_another_network(write_yaml: WriteYaml, tmp_path: Path) -> None:
    spec, options = write_yaml(SMALL), ("--epochs", 1, "--no-report")
    assert train_arch(spec, *options, "--out", tmp_path / "teacher").exit_code == 0
    weights = tmp_path / "teacher" / "model.safetensors"
    taught = (*options, "--set", "distill={alpha: 0.9, temperature: 3}")
    result = train_arch(spec, *taught, "--teacher", weights, "--out", tmp_path / "student")
    assert result.exit_code == 0, result.output
    assert f"learning from small ({weights})" in result.stdout
    other = train_arch(spec, *taught, "--teacher", weights, "--data", "fake:8x3", "--recipe", "digits", "--out", "x")
    assert (other.exit_code, "has 10 classes, the data have 3" in other.stderr) == (2, True)


def test_a_run_goes_on_when_nobody_reads_it(write_yaml: WriteYaml, tmp_path: Path) -> None:
    command = [*COMMAND, str(write_yaml(SMALL)), "--epochs", "1", "--out", str(tmp_path / "run"), "--no-report"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_spec_in_any_script_is_kept_in_any_locale(write_yaml: WriteYaml, tmp_path: Path) -> None:
    spec = write_yaml(SMALL + "description: café β² 網\n")
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*COMMAND, str(spec), "--epochs", "1", "--out", str(tmp_path / "run"), "--no-report"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert load_spec(tmp_path / "run" / "spec.yaml").description == "café β² 網"


def test_a_network_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_builder.cli.memory.free_memory", lambda: 1_000_000)
    result = train_arch("efficientnet-pico", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "weights, gradients and optimizer need 5.516 MB of memory, 1.000 MB are free" in result.stderr
    assert not os.listdir(tmp_path)


def test_help_names_every_option() -> None:
    text = train_arch("--help").stdout
    for option in (
        "--data", "--recipe", "--epochs", "--set", "--resolution", "--out", "--resume", "--accept-changes", "--device",
        "--storage", "--workers", "--on-bad", "--teacher", "--save-every", "--log-every", "--best", "--fit-batch",
        "--report", "--tensorboard", "--wandb", "--version",
    ):  # fmt: skip
        assert option in text
    assert "\n  train-arch efficientnet-pico\n" in text
