"""Files of weights: safetensors with the spec beside the tensors, and PyTorch's pickles, as far as they are data."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..arch.analysis import analyze
from ..arch.plan import Plan
from ..arch.resolve import resolve
from ..arch.spec import load_spec
from ..config import ConfigError, Mark, Problem, in_short, shorten
from ..files import NotRegularError, open_regular
from ..tensors import Damaged, read_tensors, write_tensors
from .differences import differing_computations
from .layouts import Layout
from .trunk import Trunk
from .weights import WeightsWarning, import_weights, unwrap

_MAX_DIFFERENCES = 10
_PICKLES = 5  # in PyTorch's older format, before the numbers: magic number, version, system, objects, keys
_MAX_NAME, _MAX_WORD = 200, 4_000  # characters: of a class or function; of anything else that has no spaces


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
            carries_spec = "spec" in (opened.metadata() or {})
        for text in _differences(os.fspath(file), model.plan) if carries_spec else ():
            warnings.warn(f"{model.plan.name}: {file} {text}", WeightsWarning, stacklevel=2)
    return len(state)


def check_claim(file: str | os.PathLike[str]) -> None:
    """Refuse a file whose spec has more weights than it: the network could take any memory. Raises ConfigError."""
    claimed = analyze(resolve(load_spec(file))).total.params
    try:
        with safe_open(file, "pt") as opened:
            held = sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise _refused(Path(file), f"is no file of weights, or not whole: {in_short(error)}") from None
    if claimed > held:
        raise _refused(Path(file), f"its spec has {claimed:,} weights, the file only {held:,}")


def _differences(file: str, plan: Plan) -> list[str]:
    try:
        theirs = resolve(load_spec(file))
    except ConfigError:
        return ["carries a spec that cannot be read, so nobody knows what network it was written for"]
    return [f"was written for {each}" for each in differing_computations(theirs, plan)][:_MAX_DIFFERENCES]


def read_weights(file: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name, unwrapped. Raises ConfigError for any other file.

    A pickle that wants more than data is refused, and so is what may unpack to any size: compressed archives, and
    tensors that claim more numbers than are stored.
    """
    path = Path(file)
    try:
        open_regular(path).close()  # the libraries would wait for a pipe
        if path.suffix == ".safetensors":
            state: Any = read_tensors(path)[0]
        else:
            _check_archive(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Damaged as error:
        raise _refused(path, str(error).removeprefix(f"{path}: ")) from None
    except pickle.UnpicklingError:
        reason = "is no file of weights, or holds more than data, and loading that could run code: save a state dict"
        raise _refused(path, reason) from None
    except NotRegularError as error:
        raise _refused(path, f"{error.strerror}") from None
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # of any kind: the unpickler believes what the file says
        reason = in_short(error) if str(error) else "it ends too early"
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
    with open_regular(path) as file:
        start = file.read(4)
    if start == b"PK\3\4":
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise _refused(path, "is compressed, which PyTorch's own files are not")
            starts = sorted((member.header_offset, member.file_size) for member in members)
            ends = [*(offset for offset, _ in starts[1:]), archive.start_dir]
            if any(offset + size > end for (offset, size), end in zip(starts, ends, strict=False)):
                raise _refused(path, "is no file of weights: its parts overlap, and may unpack to any size")
            for member in members:
                if member.filename.endswith("data.pkl"):
                    _check_pickle(io.BytesIO(archive.read(member)))
    elif start[:1] == b"\x80":
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            for _ in range(_PICKLES):
                if file.tell() < size:
                    _check_pickle(file)
    else:
        raise _refused(path, "is no file of weights")


def _check_pickle(file: IO[bytes]) -> None:
    """Raise ValueError for what is none, or has endless words: PyTorch's refusals look through them for minutes.

    Nothing is executed.
    """
    for opcode, argument, _ in pickletools.genops(file):
        if isinstance(argument, str | bytes) and len(argument) > _MAX_NAME:
            most = _MAX_NAME if opcode.name == "GLOBAL" else _MAX_WORD
            if max(map(len, argument.split()), default=0) > most:
                raise ValueError(f"it holds a word of more than {most:,} characters")


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
