"""The tests that a document names: `tests/test_x.py::test_y`, with or without the `tests/`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_NAMED = re.compile(r"((?:[\w./-]+/)?test_\w+\.py)::(\w+)")


def named(markdown_path: Path) -> list[tuple[str, str]]:
    """Every (file, function) that a document names."""
    return _NAMED.findall(markdown_path.read_text(encoding="utf-8"))


def missing(markdown_path: Path) -> list[str]:
    """Those of the tests named in a document that do not exist."""
    return [f"{file}::{name}" for file, name in named(markdown_path) if name not in _tests_of(file)]


def _tests_of(file: str) -> set[str]:
    path = next((place for place in (ROOT / file, ROOT / "tests" / file) if place.is_file()), None)
    if path is None:
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
