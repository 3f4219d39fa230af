"""Files of tensors: safetensors, written whole or not at all, the same bytes for the same contents."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .config import shared_mode, writing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file that nobody sees half written, also after a power cut. Raises OSError."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # JSON texts may name classes by bytes that are no text; what Python makes of them is escaped as JSON escapes.
    texts = {key: text.encode(errors="backslashreplace").decode() for key, text in metadata.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            save_file(plain, temporary, texts)
            _sort_metadata(temporary)
            os.chmod(temporary, shared_mode())
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
        except SafetensorError as error:
            raise _of_system(error) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every number in them is one."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def _of_system(error: SafetensorError) -> OSError:
    """What the library wraps: `I/O error: No space left on device (os error 28)`."""
    number = re.search(r"os error ([0-9]+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def _sort_metadata(path: Path) -> None:
    # The library writes them in an order that differs from process to process.
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
