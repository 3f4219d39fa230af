"""Files that the commands write: one rule for all, checked before the work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..config import ConfigError, Mark, Problem

Output = tuple[str, Path | None, Sequence[str]]
"""An option, the file that it names, if any, and the endings that the name may have."""

SPEC, PICTURE, WEIGHTS = (".yaml", ".yml"), (".svg", ".png", ".SVG", ".PNG"), (".safetensors",)


def check_outputs(outputs: Iterable[Output]) -> None:
    """Raise ConfigError with each file that has another ending, or exists: no command overwrites a file."""
    problems = [
        Problem(message, mark=Mark(f"{option} {file}"))
        for option, file, endings in outputs
        if file is not None and (message := _mistake(file, endings))
    ]
    if problems:
        raise ConfigError(problems)


def _mistake(file: Path, endings: Sequence[str]) -> str | None:
    if file.suffix not in endings:
        return f"expected a name that ends in {' or '.join(ending for ending in endings if ending.islower())}"
    if os.path.lexists(file):  # a link that leads nowhere, too
        return "exists already, and is not overwritten"
    try:
        os.stat(file.parent)
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return None
