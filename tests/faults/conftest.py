"""A place to train in, and the run that nothing harmed."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Place, command, make_place, outcome


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a run comes to."""
    run: Path = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = command(place.start(run), run.parent)
    assert ended.code == 0, ended.said()
    assert ended.err == ""
    return outcome(run)
