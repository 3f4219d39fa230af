"""The printed table, character by character, and its data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from effnet_builder import analyze, load_spec, resolve
from effnet_builder.arch.summary import align, render_summary, si, summary_data

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-b4", "notebook-b0", "efficientnet-pico"])
def test_table_is_the_golden_one(name: str) -> None:
    plan = resolve(load_spec(name))
    assert render_summary(plan, analyze(plan)) + "\n" == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-b4"])
def test_rows_of_the_table_add_up(name: str) -> None:
    lines = (GOLDEN / f"{name}.txt").read_text().splitlines()
    rules = [i for i, line in enumerate(lines) if set(line) == {"-"}]
    rows, total = lines[rules[0] + 1 : rules[1]], lines[rules[1] + 1]
    cells = [re.search(r"([\d,]+) +[\d.]+ [kMG] +[\d.]+ [kMG]$", row) for row in (*rows, total)]
    params = [int(cell[1].replace(",", "")) for cell in cells if cell]
    assert len(params) == len(rows) + 1
    assert sum(params[:-1]) == params[-1]


def test_data_holds_what_the_table_shows() -> None:
    plan = resolve(load_spec("efficientnet-b0"))
    data = json.loads(json.dumps(summary_data(plan, analyze(plan))))
    assert {key: data[key] for key in ("name", "resolution", "params", "macs", "activations")} == {
        "name": "efficientnet-b0", "resolution": 224, "params": 5288548, "macs": 385814752, "activations": 6748036,
    }  # fmt: skip
    figures = {
        "blocks": 2, "in_resolution": 112, "out_resolution": 56, "in_channels": 16, "out_channels": 24,
        "params": 16714, "buffers": 1062, "macs": 54945216, "activations": 2559226,
    }  # fmt: skip
    row = {"name": "stages[1]", "type": "mbconv", **figures}
    assert data["stages"][1] == {"name": "stages[1]", **figures, "rows": [row]}
    parts = [data["stem"], *data["stages"], data["head"]]
    for key in ("params", "buffers", "macs", "activations"):
        assert sum(part[key] for part in parts) == data[key]


def test_stage_2_of_b0_by_hand() -> None:
    """The numbers of the data above: a block 16 -> 24 that strides from 112 px, and one 24 -> 24 at 56 px."""
    first = 16 * 96 + 2 * 96, 96 * 9 + 2 * 96, 96 * 4 + 4, 4 * 96 + 96, 96 * 24 + 2 * 24
    second = 24 * 144 + 2 * 144, 144 * 9 + 2 * 144, 144 * 6 + 6, 6 * 144 + 144, 144 * 24 + 2 * 24
    assert sum(first) + sum(second) == 16714
    macs = 16 * 96 * 112**2 + (96 * 9 + 96 * 24) * 56**2 + 2 * 96 * 4
    macs += (24 * 144 + 144 * 9 + 144 * 24) * 56**2 + 2 * 144 * 6
    assert macs == 54945216
    activations = 96 * 112**2 + (96 + 24) * 56**2 + 4 + 96 + (144 + 144 + 24) * 56**2 + 6 + 144
    assert activations == 2559226
    assert 2 * (96 + 96 + 24) + 3 + 2 * (144 + 144 + 24) + 3 == 1062


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0, "", "0"), (999, "", "999"), (1000, "", "1.000 k"), (385814752, "", "385.8 M"), (4393771024, "", "4.394 G"),
     (99_996, "", "100.0 k"), (999_960, "", "1.000 M"), (21322648, "B", "21.32 MB"), (512, "B", "512 B")],
)  # fmt: skip
def test_prefixes(value: float, unit: str, text: str) -> None:
    assert si(value, unit) == text


def test_align() -> None:
    assert align(("a", "b"), [("x", "1"), ("yy", "10"), ("sum", "11")], sums=1) == [
        "a     b", "-------", "x     1", "yy   10", "-------", "sum  11",
    ]  # fmt: skip
