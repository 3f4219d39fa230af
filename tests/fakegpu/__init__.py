"""A fake GPU for tests: PyTorch's own CUDA code over a stub of the CUDA runtime. See README.md.

Importing this package does not import torch, and changes nothing.
"""

from __future__ import annotations

from . import build
from .counters import Copies, CopyKind, Counts, active, counts, reset
from .errors import Unavailable

__all__ = ["Copies", "CopyKind", "Counts", "Unavailable", "activate", "active", "build", "counts", "reset"]


def activate() -> None:
    """Switch on the mode of this process, once torch is imported; called by startup/sitecustomize.py."""
    import os

    if not active():
        return
    if os.environ.get("FAKEGPU_MODE") == "count":
        from . import count as mode
    else:
        from . import emulate as mode  # type: ignore[no-redef]
    mode.install()
    if os.environ.get("FAKEGPU_RANKS"):
        from . import ranks

        ranks.install()
