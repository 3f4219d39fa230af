"""Every shipped recipe trains two steps on every kind of source."""

from __future__ import annotations

import io
import math
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from effnet_builder.arch.resolve import resolve
from effnet_builder.arch.spec import load_spec
from effnet_builder.cli.compose import assemble, fit_together, new_model
from effnet_builder.config import shipped
from effnet_builder.train.batches import epoch_batches
from effnet_builder.train.data import Dataset, load_dataset
from effnet_builder.train.recipe import load_recipe
from effnet_builder.train.step import Rows, train_step

CPU = torch.device("cpu")
CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Small data of each kind, 24 images to train: generated, in folders (in memory, and decoded anew), in tar shards."""
    root = tmp_path_factory.mktemp("sources")
    generator = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 2)):
        (root / "shards").mkdir(exist_ok=True)
        with tarfile.open(root / "shards" / f"{part}-000.tar", "w") as shard:
            for label, name in enumerate(CLASSES):
                (root / "folders" / part / name).mkdir(parents=True)
                for i in range(count):
                    picture = Image.fromarray(generator.integers(0, 256, (20, 24, 3)).astype(np.uint8))
                    picture.save(root / "folders" / part / name / f"{i}.png")
                    file = io.BytesIO()
                    picture.save(file, "PNG")
                    for suffix, content in ((".png", file.getvalue()), (".cls", str(label).encode())):
                        member = tarfile.TarInfo(f"{name}-{i}{suffix}")
                        member.size = len(content)
                        shard.addfile(member, io.BytesIO(content))
    names = {
        "digits": ("digits", "auto"),
        "fake": ("fake:24x3", "auto"),
        "folder": (f"folder:{root / 'folders'}", "memory"),
        "stream": (f"folder:{root / 'folders'}", "stream"),
        "webdataset": (f"webdataset:{root / 'shards'}", "memory"),
    }
    return {
        kind: load_dataset(
            source, channels=3, size=18, progress=lambda items, *_: items, storage=storage, cache_dir=root / "cache"
        )
        for kind, (source, storage) in names.items()
    }


@pytest.mark.parametrize("kind", ["digits", "fake", "folder", "stream", "webdataset"])
@pytest.mark.parametrize("name", shipped("recipes"))
def test_two_steps(name: str, kind: str, sources: dict[str, Dataset]) -> None:
    recipe = load_recipe(name, {"batch_size": 8})
    if kind == "digits" and recipe.augment.cutout is not None:
        recipe = recipe.vary({"augment.cutout.size": 2})  # of 8 px, on which 16 would leave nothing to see
    spec = load_spec("efficientnet-pico", {"scaling.width": 0.2, "scaling.depth": 0.1, "scaling.resolution": 16})
    material = fit_together(resolve(spec), recipe, sources[kind])
    state, job = assemble(new_model(material.plan, material.recipe, CPU), material, CPU)
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    state.model.train()
    batches = epoch_batches(recipe.seed, 0, len(material.train), 8)
    for images, labels, index in job.train.batches(batches[:2]):
        norm = train_step(state, job, job.stage(0), Rows(images, labels, index, slice(0, 8), 8, 0))
        state.step += 1
        assert math.isfinite(float(norm))
        assert float(norm) > 0
    loss, _, count = state.counters.epoch.tolist()
    assert (count, math.isfinite(loss), state.counters.skipped.tolist()) == (16, True, [0, 0, 0])
    changed = [not torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True)]
    assert sum(changed) > 0.8 * len(changed)  # in a warm-up from zero some change by less than a float32 holds
