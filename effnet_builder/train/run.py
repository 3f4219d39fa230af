"""The run directory: it appears whole, when the run is done, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def run_directory(target: Path) -> Iterator[Path]:
    """A folder to fill beside `target`; renamed to it at the end, removed if anything fails. Raises OSError."""
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:100]}.unfinished-"))
    try:
        yield unfinished
        for path in unfinished.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        unfinished.chmod(0o755)
        os.rename(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def next_free(folder: Path, name: str) -> Path:
    """`folder/name-1`, or the first number that is not taken."""
    number = 1
    while (path := folder / f"{name}-{number}").exists():
        number += 1
    return path


def save_weights(model: nn.Module, path: Path) -> None:
    """The state dict as safetensors. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        save_file(state, path)
    except SafetensorError as error:  # how it reports a full disk
        raise OSError(f"weights could not be written: {error}") from None
