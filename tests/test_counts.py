"""Params, buffers and MACs of every shipped network against those of the network it is named after."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from effnet_builder import analyze, load_spec, resolve
from effnet_builder.config import shipped

# counts.tsv was measured on the peers themselves (torchvision 0.29, timm 1.0.31, efficientnet_pytorch 0.7, pytorchcv 0.0.74):
# elements of parameters and of buffers, and half of FlopCounterMode's FLOPs for one image.
with (Path(__file__).parent / "counts.tsv").open(newline="") as _file:
    COUNTS = {(row["archspec"], row["peer"], row["px"]): row for row in csv.DictReader(_file, delimiter="\t")}
# Keras' EfficientNetV2B0 to B3 hold the weights of timm's tf_ networks, and symmetric padding changes no count.
LIKE = {f"efficientnetv2-b{i}": f"tf-efficientnetv2-b{i}" for i in range(4)}
# The founding notebook's own code: params with 1,000 and with 10 classes.
NOTEBOOK = {
    "b0": (15315556, 14047366), "b1": (28565796, 27235236), "b2": (30882268, 29487358), "b3": (42183006, 40648506),
    "b4": (58146057, 56458107), "b5": (97257915, 95400675), "b6": (126108940, 124066570), "b7": (170880271, 168633961),
}  # fmt: skip
OURS = {"efficientnet-pico"}


@pytest.mark.parametrize("key", COUNTS, ids="-".join)
def test_counts(key: tuple[str, str, str]) -> None:
    name, _, px = key
    total = analyze(resolve(load_spec(name), resolution=int(px))).total
    expected = tuple(int(COUNTS[key][column]) for column in ("params", "buffers", "MACs"))
    assert (total.params, total.buffers, total.macs) == expected


@pytest.mark.parametrize("name", LIKE)
def test_counts_like(name: str) -> None:
    found, expected = (analyze(resolve(load_spec(each), resolution=224)).total for each in (name, LIKE[name]))
    assert (found.params, found.buffers, found.macs) == (expected.params, expected.buffers, expected.macs)


@pytest.mark.parametrize("version", NOTEBOOK)
def test_notebook_counts(version: str) -> None:
    spec = load_spec(f"notebook-{version}")
    found = tuple(analyze(resolve(spec, num_classes=classes)).total.params for classes in (1000, 10))
    assert found == NOTEBOOK[version]


def test_every_archspec_is_held_against_a_count() -> None:
    held = {name for name, _, _ in COUNTS} | LIKE.keys() | {f"notebook-{version}" for version in NOTEBOOK} | OURS
    assert held == set(shipped("archspecs"))


@pytest.mark.parametrize("name", shipped("archspecs"))
def test_the_header_says_the_source_and_the_counts(name: str) -> None:
    header = "".join(line for line in shipped("archspecs")[name].read_text().splitlines(True) if line.startswith("#"))
    assert "# Source: " in header
    said = re.search(r"# Expect ([\d,]+) params, ([\d,]+) MACs", header)
    total = analyze(resolve(load_spec(name))).total
    assert said is not None
    assert said.groups() == (f"{total.params:,}", f"{total.macs:,}")
