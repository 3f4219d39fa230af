"""What `predict-arch` prints, to the letter."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from effnet_builder.cli.predictions_table import describe_prediction, prediction_rows, predictions_table

CLASSES = ("cat", "a big dog", "鳥", "\x1b[31mred", "[bold]")


def test_a_block_for_each_image() -> None:
    table = predictions_table(
        ["a.jpg", "b\x07.png"], [[1, 0, 2], [3, 4, 0]], [[0.9, 0.0987, 0.00001], [1, 0.5, 0]], CLASSES
    )
    assert table == (
        "a.jpg\n"
        "  a big dog    90.00 %\n"
        "  cat           9.87 %\n"
        "  鳥          < 0.01 %\n"
        "\n"
        "b\\x07.png\n"
        "  \\x1b[31mred   100.00 %\n"
        "  [bold]         50.00 %\n"
        "  cat             0.00 %"
    )


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (1.0, " 100.00 %"),
        (0.99999, " > 99.99 %"),
        (0.9999, " 99.99 %"),
        (0.00005, " 0.01 %"),
        (4e-5, " < 0.01 %"),
        (0.0, " 0.00 %"),
    ],
)
def test_only_what_is_certain_is_shown_as_certain(share: float, shown: str) -> None:
    assert describe_prediction([0], [share], CLASSES)[0].endswith(shown)


@given(st.lists(st.tuples(st.text(max_size=20), st.floats(0, 1)), max_size=5))
def test_lines_are_aligned_and_printable(entries: list[tuple[str, float]]) -> None:
    names, shares = [name for name, _ in entries], [share for _, share in entries]
    lines = describe_prediction(range(len(entries)), shares, names)
    assert len(lines) == len(entries)
    assert len({cell_len(line) for line in lines}) <= 1
    assert all(line.isprintable() for line in lines)


def test_rows_are_json() -> None:
    rows = prediction_rows(["a.jpg", "b.jpg"], [[1, 0], [0, 4]], [[0.75, 0.25], [1.0, 0.0]], CLASSES)
    assert json.loads(json.dumps(rows)) == rows
    assert rows[1] == {
        "image": "b.jpg",
        "predictions": [
            {"class": "cat", "index": 0, "probability": 1.0},
            {"class": "[bold]", "index": 4, "probability": 0.0},
        ],
    }


def test_lengths_that_differ_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="argument"):
        predictions_table(["a.jpg"], [[0]], [[0.5, 0.5]], CLASSES)
    with pytest.raises(ValueError, match="argument"):
        prediction_rows(["a.jpg", "b.jpg"], [[0]], [[0.5]], CLASSES)
