"""Memory of the CPU that a training step frees and the next asks for again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = 2**31 - 1  # bytes, the largest that an int holds
_LARGEST = 2**26  # bytes of a tensor that is kept; the holes that larger ones leave would raise the peak


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, for the rest of the process; whether there is a C library that can.

    By default it gives tensors of more than 32 MiB back to the system at once, and the end of the heap too, and each
    step begins by getting zeroed pages again, one fault for every 4 KiB: a seventh of a training step at 32 px, most
    of the time of an input path. The memory of the process then stays at its peak.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc, or Windows
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
