"""What an editor knows of specs and recipes: their JSON Schemas, and the shipped documents as data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from effnet_builder.arch.spec import ArchSpec
from effnet_builder.cli.schema import schema_text
from effnet_builder.config import Kind, StrictModel, shipped
from effnet_builder.config.reading import parse_yaml, plain
from effnet_builder.train.recipe import Recipe

ROOT = Path(__file__).parent.parent
MODELS: dict[Kind, type[StrictModel]] = {"archspecs": ArchSpec, "recipes": Recipe}
SCHEMAS: dict[Kind, Any] = {
    "archspecs": json.loads(schema_text("archspec")),
    "recipes": json.loads(schema_text("recipe")),
}
VALIDATORS = {kind: Draft7Validator(schema) for kind, schema in SCHEMAS.items()}


def read(text: str) -> Any:
    """Data by our own reader, which reads scalars as YAML 1.2 does."""
    return plain(parse_yaml(text, "f.yaml").root)


FILES = [(kind, file) for kind in MODELS for file in shipped(kind).values()]
DOCUMENTS: list[tuple[Kind, Any]] = [(kind, read(file.read_text(encoding="utf-8"))) for kind, file in FILES]


def models() -> list[type[StrictModel]]:
    """Every model that a spec or a recipe is made of."""
    found: list[type[StrictModel]] = []
    waiting = list(StrictModel.__subclasses__())
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        if model.__module__.startswith("effnet_builder.") and not model.__name__.startswith("_"):
            found.append(model)
    return sorted(found, key=lambda model: model.__name__)


def nodes(schema: Any) -> Iterator[Any]:
    """Every schema inside a schema."""
    yield schema
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "definitions"):
            for child in value.values():
                yield from nodes(child)
        elif key in ("anyOf", "oneOf", "allOf"):
            for child in value:
                yield from nodes(child)
        elif key in ("items", "if", "then", "else", "not"):
            yield from nodes(value)


def resolved(schema: Any, node: Any) -> Any:
    while "$ref" in node:
        target = schema
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node
