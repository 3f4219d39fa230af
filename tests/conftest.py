"""What every test shares: one thread, hypothesis without deadlines, and spec files made on the spot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch: two processes of two threads each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
from fakegpu.plugin import pytest_runtest_protocol, pytest_unconfigure  # noqa: F401  hooks
from writing import WriteYaml

hypothesis.settings.register_profile("default", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("default")


@pytest.fixture
def write_yaml(tmp_path: Path) -> WriteYaml:
    """Write a YAML file into the test's folder."""

    def write(text: str, name: str = "spec.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums whose last bits are compared are taken by one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
