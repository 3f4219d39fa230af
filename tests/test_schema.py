"""The JSON Schemas of specs and recipes: current, draft 7, complete, and true of every shipped document."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from editors import FILES, MODELS, ROOT, SCHEMAS, VALIDATORS, models, nodes, read, resolved
from jsonschema import Draft7Validator
from typer.testing import CliRunner

from effnet_builder.cli import build, train
from effnet_builder.config import Kind

IDS = [file.stem for _, file in FILES]


def test_generated_files_are_current() -> None:
    files = runpy.run_path(str(ROOT / "docs" / "generate.py"))["generated"]()
    assert {path.relative_to(ROOT).as_posix() for path in files} == {
        "archspecs/schema.json", "recipes/schema.json", "docs/spec.md",
    }  # fmt: skip
    for path, text in files.items():
        found = path.read_text(encoding="utf-8")
        # pydantic's versions order definitions differently, and write 1 as 1.0
        same = json.loads(found) == json.loads(text) if path.suffix == ".json" else found == text
        assert same, f"{path} is not current; run python docs/generate.py"


@pytest.mark.parametrize("kind", MODELS)
def test_the_shipped_schema_is_the_one_that_the_command_prints(kind: Kind) -> None:
    command = {"archspecs": build.app, "recipes": train.app}[kind]
    result = CliRunner().invoke(command, ["--schema"])
    assert result.exit_code == 0
    shipped, printed = (ROOT / kind / "schema.json").read_text(encoding="utf-8"), result.stdout
    assert json.loads(shipped) == json.loads(printed)
    for text in (shipped, printed):
        assert text.startswith('{\n  "$schema": "http://json-schema.org/draft-07/schema#",\n')
        assert text.endswith("\n}\n")


def test_a_schema_needs_no_torch() -> None:
    code = "from effnet_builder.cli.schema import schema_text as t; t('archspec'); import sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(("kind", "file"), FILES, ids=IDS)
def test_the_first_line_names_the_schema(kind: Kind, file: Path) -> None:
    first = file.read_text().splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    path = first.removeprefix(prefix)
    assert not os.path.isabs(path)
    # Editors resolve the path from the folder of the file; the folders lie the same way in a wheel.
    assert (file.parent / path).resolve() == (ROOT / kind / "schema.json").resolve()


@pytest.mark.parametrize("kind", MODELS)
def test_it_is_draft_7_and_nothing_newer(kind: Kind) -> None:
    Draft7Validator.check_schema(SCHEMAS[kind])
    for node in nodes(SCHEMAS[kind]):
        assert not node.keys() & {"$defs", "discriminator", "prefixItems", "unevaluatedProperties", "dependentRequired"}
        assert "$ref" not in node or node.keys() == {"$ref"}, "draft 7 ignores what stands beside a $ref"
        if "$ref" in node:
            assert resolved(SCHEMAS[kind], node) is not None
        if node.get("type") == "object" and node is not SCHEMAS[kind]:
            assert node["additionalProperties"] is False


@pytest.mark.parametrize("kind", MODELS)
def test_every_field_has_a_description(kind: Kind) -> None:
    model = MODELS[kind].model_json_schema()
    for definition in (model, *model["$defs"].values()):
        assert definition["description"].strip()
        for key, part in definition["properties"].items():
            assert part.get("description", "").strip(), (definition["title"], key)
            assert "default" in part or key in definition["required"], (definition["title"], key)
    for node in nodes(SCHEMAS[kind]):
        for key, part in node.get("properties", {}).items():
            options = part.get("anyOf", [part]) if "description" not in part else [part]
            assert all("description" in resolved(SCHEMAS[kind], option) for option in options), key


@pytest.mark.parametrize("kind", MODELS)
def test_titles_are_those_of_mappings(kind: Kind) -> None:
    titled = [node["title"] for node in nodes(SCHEMAS[kind]) if "title" in node]
    names = {model.__name__ for model in models()}
    assert {title.removesuffix(" (changes)") for title in titled} <= names


@pytest.mark.parametrize(("kind", "file"), FILES, ids=IDS)
def test_every_shipped_document_is_valid(kind: Kind, file: Path) -> None:
    assert not list(VALIDATORS[kind].iter_errors(read(file.read_text())))


@pytest.mark.parametrize(
    ("kind", "file"), [(kind, file) for kind, file in FILES if "\nextends:" not in file.read_text()]
)
def test_whole_documents_are_held_to_the_strict_half(kind: Kind, file: Path) -> None:
    data = read(file.read_text())
    for key in MODELS[kind].model_json_schema()["required"]:
        found = VALIDATORS[kind].iter_errors({k: v for k, v in data.items() if k != key})
        assert [error.message for error in found] == [f"'{key}' is a required property"]


CHANGES = [
    ("stages: {1: {kernel_size: 5}}", True),
    ("stages: {1: {kernel_size: 4}}", False),
    ("stages: {1: {kernel_size: null}}", True),
    ("stages: {1: {out_channels: null}}", False),  # there is no default to fall back on
    ("stages: {1: null}", False),
    ("stages: {01: {stride: 1}}", False),
    ("stages: {-1: {stride: 1}}", False),
    ("stages: {first: {stride: 1}}", False),
    ("stages: {}", False),
    ("stages: null", False),
    (
        "stages: {1: {start_kernel_size: 3}}",
        True,
    ),  # a key of another type than the base's, which the schema cannot know
    ("stages: {1: {type: mbconv, start_kernel_size: 3}}", False),
    ("stages: {1: {type: universal_inverted_bottleneck, start_kernel_size: 3}}", True),
    ("stages: {1: {type: null}}", False),
    ("stages: {1: {0: {stride: 2}, 2: {norm: {eps: null}}}}", True),
    ("stages: {1: {0: {0: {stride: 2}}}}", False),
    ("stages: {1: [{type: conv, out_channels: 8}]}", True),
    ("stages: {1: [{out_channels: 8}]}", False),  # a list replaces: its items are whole
    ("stages: [{type: conv, out_channels: 8, norm: {eps: null}}]", False),
    ("stages: [{type: conv, out_channels: 8}]", True),
    ("norm: null\nrounding: {stages: {divisor: null}}", True),
    ("normalization: {mean: {0: 0.5}}", True),
    ("normalization: {mean: {0: half}}", False),
    ("normalization: {mean: null}", False),
    ("resolution: null", False),
    ("extends: 3", False),
]


@pytest.mark.parametrize(("text", "valid"), CHANGES)
def test_changes(text: str, valid: bool) -> None:
    data = {"extends": "efficientnet-b0", "name": "x", **read(text)}
    assert VALIDATORS["archspecs"].is_valid(data) is valid
    del data["extends"]
    assert not VALIDATORS["archspecs"].is_valid(data)
