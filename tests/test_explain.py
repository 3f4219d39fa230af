"""Explanations and comparisons: golden tables, and every line held against the plan."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from effnet_builder import ConfigError, explain, load_spec, resolve
from effnet_builder.arch.compare import compare
from effnet_builder.cli.build import app
from effnet_builder.config import shipped

GOLDEN = Path(__file__).parent / "golden"
SOME = [name for i, name in enumerate(shipped("archspecs")) if i % 9 == 0]


def build_arch(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        ("explain-b4-stages.5", ["efficientnet-b4", "--explain", "stages.5"]),
        ("explain-b0-phi-3", ["efficientnet-b0", "--phi", "3", "--explain"]),
        ("explain-mobilenetv3-stages.3", ["mobilenet-v3-large", "--width", "0.75", "--explain", "stages.3"]),
        ("compare-b0-b2-edgetpu", ["efficientnet-b0", "efficientnet-b2", "efficientnet-es", "--compare"]),
    ],
)
@pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")
def test_the_table_is_the_golden_one(file: str, arguments: list[str]) -> None:
    assert build_arch(*arguments) == (GOLDEN / f"{file}.txt").read_text()


@pytest.mark.parametrize("name", SOME)
@pytest.mark.filterwarnings("ignore::effnet_builder.ScalingWarning")
def test_every_line_is_true_of_the_plan(name: str) -> None:
    for overrides in ({}, {"scaling.phi": 1.3, "scaling.depth": None, "scaling.width": None}):
        spec = load_spec(name, overrides)
        plan = resolve(spec)
        found = {origin.path: origin for origin in explain(spec).origins}
        assert found["stem.out_channels"].value == plan.stem.out_channels
        for stage in plan.stages:
            for group in stage.groups:
                assert found[f"{group.name}.out_channels"].value == group.blocks[0].convs[-1].out_channels
                assert found[f"{group.name}.repeats"].value == len(group.blocks)
        if plan.head.conv is not None:
            assert found["head.out_channels"].value == plan.head.conv.out_channels
        for origin in found.values():
            assert origin.raw == pytest.approx(origin.base * origin.factor)
            assert origin.value == origin.raw or origin.rounding  # what differs was rounded by some rule
            assert origin.where == "default" or ":" in origin.where or "=" in origin.where


@pytest.mark.parametrize("name", SOME)
def test_inside_a_stage_too(name: str) -> None:
    spec = load_spec(name)
    plan = resolve(spec)
    for i, stage in enumerate(plan.stages):
        found = {origin.path: origin for origin in explain(spec, f"stages.{i}").origins}
        for group in stage.groups:
            for block, which in zip(group.blocks, ("first block", "other blocks"), strict=False):
                squeeze, expansion = block.squeeze_excite, block.expansion
                lines = {path: origin for path, origin in found.items() if path.endswith(which) and group.name in path}
                widths = [origin.value for path, origin in lines.items() if "squeeze" in path]
                assert widths == ([] if squeeze is None else [squeeze.reduce.out_channels])
                widths = [origin.value for path, origin in lines.items() if "expansion" in path]
                assert widths in ([], [expansion.out_channels] if expansion else [])


@pytest.mark.parametrize(
    ("name", "overrides", "coincides"),
    [
        ("efficientnet-b0", {"scaling.phi": 1}, "efficientnet-b2 but for resolution: 258 px here, 260 px there"),
        ("efficientnet-b0", {"scaling.depth": 1.8, "scaling.width": 1.4, "scaling.resolution": 380}, "efficientnet-b4"),
    ],
)
def test_published_networks_are_recognized(name: str, overrides: dict[str, object], coincides: str) -> None:
    found = explain(load_spec(name, overrides)).coincides
    assert [line for line in found if line.endswith(f"equals {coincides}")]
    assert not explain(load_spec(name, {"scaling.phi": 3})).coincides


def test_the_resolution_is_explained_by_its_power() -> None:
    (origin,) = explain(load_spec("efficientnet-b0", {"scaling.phi": 3}), "resolution").origins
    assert (origin.base, origin.cause, origin.value) == (224, "resolution", 341)
    assert math.isclose(origin.factor, 1.15**3)
    assert origin.where == "efficientnet-b0.yaml:9"


@pytest.mark.parametrize("path", ["stages", "stages.7", "stage.1", "stem.out_channels", "hed", "stages.0.0"])
def test_other_parts_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="no such part"):
        explain(load_spec("efficientnet-b0"), path)


def test_a_comparison_marks_what_differs() -> None:
    lines = {line.name: line for line in compare(*(resolve(load_spec(f"efficientnet-b{i}")) for i in (0, 1)))}
    assert lines["width"].values == ("1", "1")
    assert not lines["width"].differs
    assert lines["params"].values == ("5,288,548", "7,794,184")
    assert lines["stages[1]"].values == ("2 mbconv x6, 3x3 /2, 24", "3 mbconv x6, 3x3 /2, 24")
    assert lines["published top-1"].values == ("77.1 %", "79.1 %")
    assert all(line.differs for name, line in lines.items() if name in ("depth", "resolution", "stages[1]", "MACs"))


def test_networks_of_unequal_length_are_compared_and_as_json() -> None:
    data = json.loads(build_arch("efficientnetv2-s", "efficientnet-b0", "--compare", "--format", "json"))
    assert data["names"] == ["efficientnetv2-s", "efficientnet-b0"]
    (last,) = [line for line in data["lines"] if line["name"] == "stages[6]"]
    assert last["values"][0] == ""
    assert last["differs"] is True


def test_an_explanation_as_json() -> None:
    (data,) = json.loads(build_arch("efficientnet-b4", "--explain", "stem", "--format", "json"))
    assert [each["value"] for each in data["multipliers"]] == [1.8, 1.4, 380]
    assert [(each["path"], each["raw"], each["value"]) for each in data["origins"]] == [("stem.out_channels", 44.8, 48)]
