"""Recipes as data: what is refused, what the schedule does, and the notebook's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import WriteYaml
from hypothesis import given
from hypothesis import strategies as st

from effnet_builder import ConfigError
from effnet_builder.config import shipped
from effnet_builder.train.recipe import StepSchedule, load_recipe


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
        "epochs": 7,
        "batch_size": 64,
        "optimizer": {"type": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False},
        "schedule": {"type": "step", "step_size": 7, "gamma": 0.1},
        "augment": {"horizontal_flip": True, "crop_padding": 4},
        "normalize": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)},
        "valid_fraction": 0.1,
        "seed": 1,
    }


def test_mistakes_are_located(write_yaml: WriteYaml) -> None:
    path = write_yaml(
        "extends: notebook\nname: mine\nepochs: 0\noptimiser: {lr: 1}\nschedule: {type: cosine}\n"
        "normalize: {mean: [0.5]}\noptimizer: {momentum: 0, nesterov: true, lr: fast}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert str(error.value).replace(f"{path}:", "").splitlines() == [
        "3:9 epochs = 0: expected a whole number from 1 to 100,000",
        "4:1 optimiser: unknown key; did you mean 'optimizer'?",
        "5:11 schedule.step_size: missing; expected a whole number from 1 to 100,000",
        "5:18 schedule.type = cosine: expected 'step'",
        "6:12 normalize = a mapping: mean has 1 channels, std has 3",
        "7:46 optimizer.lr = fast: expected a number above 0 to 100",
    ]
    with pytest.raises(ConfigError, match="nesterov needs a momentum above 0"):
        load_recipe("notebook", {"optimizer.momentum": 0, "optimizer.nesterov": True})
    with pytest.raises(ConfigError, match="no recipe has this name; did you mean 'notebook'"):
        load_recipe("notebok")


@given(base=st.floats(1e-4, 1), step_size=st.integers(1, 5), gamma=st.floats(0.1, 1))
def test_the_schedule_is_torchs_step_lr(base: float, step_size: int, gamma: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size, gamma)
    schedule = StepSchedule(type="step", step_size=step_size, gamma=gamma)
    for epoch in range(12):
        assert schedule.lr(base, epoch) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
