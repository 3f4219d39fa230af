"""Freed memory that is kept: page faults of a process that allocates the same again and again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from effnet_builder.train.allocator import keep_freed_memory
torch.set_num_threads(1)
known = keep_freed_memory()
for i in range(24):
    torch.zeros(3 * 2**22)  # 48 MiB
    if i == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(int(known), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_memory_is_not_asked_for_again() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    known, faults = (int(number) for number in found.split())
    if not known:
        pytest.skip("a C library without mallopt")
    assert faults < 240  # 20 tensors of 12,288 pages of 4 KiB, or 24 of 2 MiB: 480 at least if they were new
