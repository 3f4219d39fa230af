"""A place to train in, and the run that nothing harmed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import Place, make_place
from trials import Bench, make_bench


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
