"""What the fixture `write_yaml` gives, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class WriteYaml(Protocol):
    def __call__(self, text: str, name: str = "spec.yaml") -> Path: ...
