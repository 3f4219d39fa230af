"""Files of tensors: safetensors, written whole or not at all, the same bytes for the same contents, with a digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .config import in_short, shared_mode, writing
from .files import open_regular

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Damaged(Exception):  # noqa: N818
    """A file is not what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file that nobody sees half written, also after a power cut. Raises OSError.

    The metadata get a `digest` of everything, which `read_tensors` checks: safetensors itself notices no flipped bit.
    Not by the library's `save_file`: that one leaves a hidden file of a random name where the process is killed, hides
    why a disk refused, and orders the metadata differently from process to process.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # JSON texts may name classes by bytes that are no text; what Python makes of them is escaped as JSON escapes.
    texts = {key: text.encode(errors="backslashreplace").decode() for key, text in metadata.items()}
    order = sorted(plain, key=lambda name: (-plain[name].element_size(), name))  # so that all are aligned
    table = {name: (_DTYPES[plain[name].dtype], plain[name].shape, plain[name].nbytes) for name in order}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(tensors_header(table, {**texts, "digest": _digest(plain, texts)}))
                for name in order:
                    file.write(plain[name].reshape(-1).view(torch.uint8).numpy().data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, shared_mode())
            os.replace(temporary, path)
            _flush(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata. Raises Damaged; a file without a digest is taken as it is."""
    try:
        open_regular(path).close()  # safetensors would wait for a pipe
        with safe_open(path, "pt") as opened:  # once: another process may replace the file meanwhile
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise Damaged(f"{path}: not a whole file ({in_short(error)})") from None
    if "digest" in metadata and metadata["digest"] != _digest(tensors, metadata):
        raise Damaged(f"{path}: its contents are not those that were written (the digest differs)")
    return tensors, metadata


def finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether every number in them is one."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def tensors_header(table: Mapping[str, tuple[str, Sequence[int], int]], metadata: Mapping[str, str]) -> bytes:
    """The start of a .safetensors file: dtype, shape and bytes of the tensors, which follow in this order."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, (dtype, shape, size) in table.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of the metadata, and of each tensor's name, type, shape and bytes."""
    said = json.dumps({name: text for name, text in metadata.items() if name != "digest"}, sort_keys=True)
    digest = hashlib.blake2b(said.encode(), digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flush(folder: Path) -> None:
    """A rename is on the disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
