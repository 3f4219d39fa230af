"""Freed memory that is kept: page faults of a process that allocates the same again and again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from effnet_builder.train.allocator import keep_freed_memory
torch.set_num_threads(1)
known = keep_freed_memory() if sys.argv[1] == "kept" else True
for i in range(24):
    torch.zeros(3 * 2**22)  # 48 MiB, more than glibc keeps by itself
    if i == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(int(known), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    """Page faults of twenty tensors, one after the other."""
    found = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout
    known, faults = (int(number) for number in found.split())
    if not known:
        pytest.skip("a C library without mallopt")
    return faults


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_memory_is_not_asked_for_again() -> None:
    # One or two of the twenty may be new, where something small was put into the hole that the one before had left.
    assert _faults("kept") < _faults("default") / 5
