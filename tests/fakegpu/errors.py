"""The exception of this package."""

from __future__ import annotations


class Unavailable(Exception):  # noqa: N818
    """Raised if this machine cannot have a fake GPU; `reason` is one sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
