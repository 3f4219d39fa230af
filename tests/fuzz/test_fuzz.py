"""A seeded thousand of each kind of hostile input, fewer where each trains or runs a network; soak.py does millions."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_targets import TARGETS, at

COUNTS = {"networks": 150, "runs": 150}
# Of these kinds some inputs must be accepted, or the properties of what is accepted are never looked at.
ACCEPTED = {"specs": 100, "recipes": 100, "assignments": 5, "extends": 50, "multipliers": 50, "networks": 30, "safetensors": 30, "pth": 20, "tar": 100}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TARGETS)
def test_hostile_input_is_refused_in_a_sentence_or_does_all_that_it_says(kind: str, tmp_path: Path) -> None:
    target = TARGETS[kind](tmp_path)
    accepted = 0
    for index in range(COUNTS.get(kind, 1000)):
        given = target.make(at(kind, 0, index))
        try:
            accepted += target.check(given)
        except Exception as error:
            raise AssertionError(
                f"soak.py --kind {kind} --seed 0 --only {index}: {error!r}\n{given!r}"[:5000]
            ) from error
    assert accepted >= ACCEPTED.get(kind, 0)
