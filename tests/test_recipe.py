"""Recipes as data: what is refused, what the schedule does, and the notebook's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from writing import WriteYaml

from effnet_builder import ConfigError
from effnet_builder.config import shipped
from effnet_builder.train.recipe import load_recipe


def test_every_shipped_recipe_loads_and_survives_saving(tmp_path: Path) -> None:
    assert {"digits", "notebook", "small-images"} <= set(shipped("recipes"))
    for name in shipped("recipes"):
        recipe = load_recipe(name)
        assert recipe.name == name
        file = tmp_path / f"{name}.yaml"
        file.write_text(recipe.to_yaml())
        assert load_recipe(file) == recipe


def test_the_notebooks_configuration() -> None:
    recipe = load_recipe("notebook")
    assert recipe.model_dump(exclude={"name", "description", "source"}) == {
        **dict.fromkeys(("progressive", "dropout", "drop_path_rate", "distill", "early_stop", "norm_images")),
        "keep": "last",
        "sync_batch_norm": False,
        "accumulate": 1,
        "precision": "fp32",
        "deterministic": False,
        "channels_last": True,
        "compile": False,
        "skip_limit": 10,
        "epochs": 7,
        "batch_size": 64,
        "optimizer": {
            "type": "sgd", "lr": 0.01, "lr_batch_size": None, "layer_decay": None, "no_decay": (), "momentum": 0.9, "weight_decay": 1e-4,
            "nesterov": False,
        },
        "schedule": {"type": "step", "step_size": 7, "gamma": 0.1, "warmup": None, "warmup_factor": 0.0},
        "clip": None,
        "ema": None,
        "label_smoothing": 0.0,
        "augment": {
            "random_resized_crop": None, "resize_first": True, "policy": None, "horizontal_flip": True, "crop_padding": 4,
            "padding_mode": "constant", "erasing": None, "cutout": None,
        },
        "mix": None,
        "eval_crop": 1.0,
        "normalize": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)},
        "valid_fraction": 0.1,
        "seed": 1,
    }  # fmt: skip


def test_mistakes_are_located(write_yaml: WriteYaml) -> None:
    path = write_yaml(
        "extends: notebook\nname: mine\nepochs: 0\noptimiser: {lr: 1}\nschedule: {type: cosin, warmup: 5, finl: 0.1}\n"
        "normalize: {mean: [0.5]}\noptimizer: {momentum: 0, nesterov: true, lr: fast}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert str(error.value).replace(f"{path}:", "").splitlines() == [
        "3:9 epochs = 0: expected a whole number from 1 to 100,000",
        "4:1 optimiser: unknown key; did you mean 'optimizer'?",
        "5:18 schedule.type = cosin: expected 'constant', 'step', 'exponential', 'cosine', 'linear' or 'triangular'; "
        "did you mean 'cosine'?",
        "5:33 schedule.warmup = 5: expected a duration above 0: epochs ('5ep'), whole steps ('500steps') or a share of "
        "the run up to 1 (0.2); did you mean '5ep'?",
        "5:36 schedule.finl: unknown key; did you mean 'final'?",
        "6:12 normalize = a mapping: mean has 1 channels, std has 3",
        "7:46 optimizer.lr = fast: expected a number above 0 to 100",
    ]
    with pytest.raises(ConfigError, match="nesterov needs a momentum above 0"):
        load_recipe("notebook", {"optimizer.momentum": 0, "optimizer.nesterov": True})
    with pytest.raises(ConfigError, match="no recipe has this name; did you mean 'notebook'"):
        load_recipe("notebok")


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ("{type: cosine, warmup: 7ep}", None),
        ("{type: cosine, warmup: 7.000001ep}", "2:34 schedule.warmup = 7.000001ep"),
        ("{type: constant, warmup: 8ep}", "2:36 schedule.warmup = 8ep"),
        ("{type: triangular, peak_at: 10ep}", "2:39 schedule.peak_at = 10ep"),
        ("{type: triangular, peak_at: 1.0}", None),
        ("{type: linear, warmup: 900000000steps}", None),  # how many steps there are is not known here
    ],
)
def test_a_climb_that_never_ends_is_refused(schedule: str, problem: str | None, write_yaml: WriteYaml) -> None:
    optimizer = "optimizer: {type: sgd, lr: 0.1}"
    path = write_yaml(f"{{name: mine, epochs: 7, batch_size: 8,\nschedule: {schedule}, {optimizer}}}")
    if problem is None:
        assert load_recipe(path).epochs == 7
        return
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    expected = f"{path}:{problem}: longer than the run of 7 epochs, which would end before lr is reached"
    assert str(error.value) == expected


def test_muon_in_a_recipe(write_yaml: WriteYaml) -> None:
    muon = {"optimizer": {"type": "muon", "lr": 0.02, "aux": {"type": "sgd", "lr": 0.1}}}
    recipe = load_recipe("notebook", muon | {"optimizer.layer_decay": 0.8})
    assert recipe.optimizer.base_lr(64) == 0.02
    assert recipe.vary({}).to_yaml() == recipe.to_yaml()
    for path, value, message in [
        ("optimizer.aux.layer_decay", 0.5, " = 0.5: is of the whole optimizer; give it beside aux"),
        ("optimizer.layer_decay", 1.0, " = 1.0: expected a number above 0 below 1"),
        ("optimizer.no_decay", ["bias"], ": unknown key; did you mean 'layer_decay'?"),
        ("optimizer.aux.type", "rmsprop", " = rmsprop: expected 'sgd' or 'adamw'"),
    ]:
        with pytest.raises(ConfigError) as error:
            load_recipe("notebook", muon | {path: value})
        assert f"{path}{message}" in str(error.value)
    with pytest.raises(ConfigError, match="nesterov needs a momentum above 0"):
        load_recipe("notebook", muon | {"optimizer.momentum": 0.0, "optimizer.nesterov": True})
    assert load_recipe("notebook", muon | {"optimizer.momentum": 0.0})


def test_exchanges_are_not_compiled() -> None:
    with pytest.raises(ConfigError, match="compile = true: does not go with sync_batch_norm"):
        load_recipe("notebook", {"compile": True, "sync_batch_norm": True})
