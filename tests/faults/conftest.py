"""A place to train in, and the run that nothing harmed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import Fault, Place, command, make_place
from trials import Bench, make_bench

from effnet_builder.train.run import Run


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def undisturbed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="session")
def bench(place: Place, undisturbed_folder: Path) -> Bench:
    """What a run comes to."""
    return make_bench(place, undisturbed_folder)


@pytest.fixture(scope="session")
def undisturbed(bench: Bench) -> dict[str, object]:
    """Everything that a run has equal with another of its kind."""
    return dict(bench.expected)


@pytest.fixture
def finished(bench: Bench, undisturbed_folder: Path, tmp_path: Path) -> Path:
    """A run that is done, to be harmed."""
    return Path(shutil.copytree(undisturbed_folder / "run", tmp_path / "finished"))


@pytest.fixture(scope="session")
def _stopped(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("stopped") / "run"
    fault = Fault("effnet_builder.train.engine:train_step", 10, "SIGTERM")
    ended = command(bench.place.start(run), run.parent, fault)
    assert ended.code == 143, ended.said()
    assert ended.err == f"stopped by SIGTERM; step 10 is saved; to go on: train-arch --resume {run}\n"
    assert Run(run).checkpoints.steps()[:2] == [10, 8]
    assert not (run / "model.safetensors").exists()
    return run


@pytest.fixture
def stopped(_stopped: Path, tmp_path: Path) -> Path:
    """A run that SIGTERM stopped in its second epoch, with checkpoints of steps 8 and 10."""
    return Path(shutil.copytree(_stopped, tmp_path / "run"))
