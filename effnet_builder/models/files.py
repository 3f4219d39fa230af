"""Files of weights: safetensors with the spec beside the tensors, and PyTorch's pickles, as far as they are data."""

from __future__ import annotations

import json
import os
import pickle
import stat
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..arch.plan import Plan
from ..config import ConfigError, Mark, Problem, shorten
from ..tensors import write_tensors
from .layouts import Layout
from .trunk import Trunk
from .weights import WeightsWarning, import_weights, unwrap


def load_weights(model: Trunk, file: str | os.PathLike[str], layout: Layout | None = None) -> int:
    """`import_weights` of a file; how many tensors it has. Raises ConfigError.

    Warns (WeightsWarning) also where the file was written for a network that computes something else with them.
    """
    state = read_weights(file)
    try:
        import_weights(model, state, layout)
    except ConfigError as error:
        raise ConfigError(replace(found, mark=Mark(os.fspath(file))) for found in error.problems) from None
    if os.fspath(file).endswith(".safetensors"):
        with safe_open(file, "pt") as opened:
            said = opened.metadata() or {}
        for key, ours in metadata(model.plan).items():
            if key in ("norm", "eps", "padding") and said.get(key, ours) != ours:
                text = f"{model.plan.name}: {file} was written for {key} {said[key]}; the spec has {ours}"
                warnings.warn(text, WeightsWarning, stacklevel=2)
    return len(state)


def read_weights(file: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name, unwrapped. Raises ConfigError for any other file.

    A pickle that wants more than data is refused, and so is what may unpack to any size: compressed archives, and
    tensors that claim more numbers than are stored.
    """
    path = Path(file)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe that nobody writes to would wait
            raise _refused(path, "expected a regular file")
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            _check_archive(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except pickle.UnpicklingError:
        reason = "is no file of weights, or holds more than data, and loading that could run code: save a state dict"
        raise _refused(path, reason) from None
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # of any kind: the unpickler believes what the file says
        reason = (str(error) or "it ends too early").splitlines()[0][:200]
        raise _refused(path, f"is no file of weights, or not whole: {reason}") from None
    if not isinstance(state, dict):
        raise _refused(path, f"holds a {type(state).__name__}, not a state dict")
    try:
        tensors = unwrap(state)
    except ConfigError as error:
        raise ConfigError(replace(found, mark=Mark(str(path))) for found in error.problems) from None
    for name, tensor in tensors.items():
        if not _is_stored(tensor):
            raise _refused(path, f"{shorten(name)} claims more numbers than are stored, or is no plain tensor")
    return tensors


def _check_archive(path: Path) -> None:
    """Refuse what is neither PyTorch's archive nor its older stream, and archives that unpack to more than they are."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\3\4":
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise _refused(path, "is compressed, which PyTorch's own files are not")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise _refused(path, "is no file of weights: its parts are larger than the whole")
    elif start[:1] != b"\x80":
        raise _refused(path, "is no file of weights")


def _is_stored(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def write_weights(
    state: dict[str, Tensor], plan: Plan, file: str | os.PathLike[str], classes: Sequence[str] | None = None
) -> None:
    """Tensors as safetensors, whole or not at all; the metadata hold the spec and what no state dict carries.

    `classes` are the names of the outputs, where they are known. Raises OSError.
    """
    names = {} if classes is None else {"classes": json.dumps(list(classes), ensure_ascii=False)}
    write_tensors(Path(file), state, metadata(plan) | names)


def metadata(plan: Plan) -> dict[str, str]:
    """What a file of weights says of its network: spec, norm, padding, image size, and mean and std where known."""
    spec = plan.spec
    said: dict[str, object] = {
        "norm": spec.norm.type,
        "eps": spec.norm.eps,
        "padding": spec.padding,
        "resolution": plan.resolution,
    }
    if spec.normalization is not None:
        said |= {"mean": spec.normalization.mean, "std": spec.normalization.std}
    return {"format": "pt", "spec": spec.to_yaml(), **{key: json.dumps(value) for key, value in said.items()}}


def _refused(path: Path, reason: str) -> ConfigError:
    return ConfigError([Problem(reason, mark=Mark(str(path)))])
