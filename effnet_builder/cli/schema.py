"""The JSON Schemas that editors check specs and recipes with, made from the models. Imports no torch."""

from __future__ import annotations

import json
from typing import Any

import typer

from ..arch.spec import ArchSpec
from ..config import StrictModel
from ..config.json_schema import document_schema
from ..train.recipe import Recipe
from .console import echo

MODELS: dict[str, type[StrictModel]] = {"archspec": ArchSpec, "recipe": Recipe}


def schema_text(kind: str) -> str:
    """The JSON Schema of a kind of document, `archspec` or `recipe`, as the text of a file."""
    return json.dumps(document_schema(MODELS[kind]), indent=2, ensure_ascii=False) + "\n"


def schema_option(kind: str) -> Any:
    """The option `--schema`, which prints the schema and does nothing else."""

    def print_schema(wanted: bool) -> None:
        if wanted:
            echo(schema_text(kind).rstrip("\n"), lines=True)
            raise typer.Exit

    help_text = f"Print the JSON Schema of {kind}s, for editors, and exit."
    return typer.Option("--schema", callback=print_schema, is_eager=True, help=help_text)
