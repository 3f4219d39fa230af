"""Reading of the pickles and .mat files of published data sets: only the very bytes whose sum was checked."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

from ..files import read_regular

_MOST_BYTES = 2**30
_ALLOWED = {
    ("_codecs", "encode"),  # of bytes, by Python 3
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def read_checked(path: Path, md5: str) -> bytes:
    """Read a file whose bytes have this md5. Raises ValueError and OSError."""
    content = read_regular(path, _MOST_BYTES)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path.name} does not have the md5 {md5}")
    return content


def unpickle(content: bytes) -> dict[str, Any]:
    """Load a mapping of arrays, lists, texts and numbers. Raises ValueError for anything else."""
    try:
        found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # of any kind: the unpickler believes what the file says
        raise ValueError(f"not a pickle of arrays: {error or type(error).__name__}") from None
    if not isinstance(found, dict):
        raise ValueError(f"a pickle of a {type(found).__name__}")
    return found


class _Unpickler(pickle.Unpickler):
    """Loads arrays and Python's own containers; names nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what an array needs. Raises UnpicklingError for any other name."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
