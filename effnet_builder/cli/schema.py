"""The JSON Schemas that editors check specs and recipes with, made from the models. Imports no torch."""

from __future__ import annotations

import json

from ..arch.spec import ArchSpec
from ..config import StrictModel
from ..config.json_schema import document_schema
from ..train.recipe import Recipe

MODELS: dict[str, type[StrictModel]] = {"archspec": ArchSpec, "recipe": Recipe}


def schema_text(kind: str) -> str:
    """The JSON Schema of a kind of document, `archspec` or `recipe`, as the text of a file."""
    return json.dumps(document_schema(MODELS[kind]), indent=2, ensure_ascii=False) + "\n"
