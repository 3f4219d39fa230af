"""What the last bits of a result may depend on, beside spec, recipe and data: recorded, and compared at a resume."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..files import open_regular

if TYPE_CHECKING:
    import torch

# Variables by which libraries choose other kernels or another order of sums.
SWITCHES = (
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DYNAMIC", "OMP_DYNAMIC", "OMP_SCHEDULE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "CUDNN_DETERMINISTIC",
    "TORCH_CUDNN_V8_API_DISABLED", "PYTORCH_MIOPEN_SUGGEST_NHWC",
)  # fmt: skip
_PACKAGES = ("torchvision", "numpy", "pillow")  # those that decode and resize
_NO_MATTER = {"platform", "threads"}  # the kernel of the system; threads are set to what they were

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF = re.compile(r"refs/[^\s\\:?*\[]+")
_LONGEST_LINE = 4096  # bytes
_LARGEST_LIST = 2**24  # bytes of packed-refs


def environment(device: torch.device, processes: int) -> dict[str, str | int]:
    """Return versions, device, CPU, threads and the SWITCHES that are set, by name. Starts no program."""
    import torch

    system = os.uname()  # platform.platform() would run `uname`, whichever the PATH has
    found: dict[str, str | int] = {
        "effnet_builder": __version__,
        "torch": torch.__version__,
        **{package: _version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{system.sysname} {system.release} {system.machine}",
        "cpu": _cpu() or system.machine,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "processes": processes,
    }
    if device.type == "cuda":
        found |= {"cuda": str(torch.version.cuda), "cudnn": torch.backends.cudnn.version() or "none"}  # type: ignore[no-untyped-call]
    return found | {name: os.environ[name] for name in SWITCHES if name in os.environ}


def environment_changes(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return `torch 2.14.0 -> 2.14.1` for each fact that differs and may change bits; nothing of what is not recorded.

    Runs of older versions recorded less: what they did not is not compared.
    """
    facts = [name for name in now if name in before and name not in _NO_MATTER and name not in SWITCHES]
    switches = [name for name in SWITCHES if name in before or name in now] if "cpu_capability" in before else []
    pairs = [(name, before.get(name, "not set"), now.get(name, "not set")) for name in (*facts, *switches)]
    return [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]


def commit_of(folder: Path) -> str | None:
    """Return the commit that is checked out in or around a folder; None outside a repository.

    Read from git's files, because git itself runs programs that the configuration of the repository names: one that
    came from elsewhere could run anything. So whether files differ from the commit is not known.
    """
    for above in (folder, *folder.parents):
        git = above / ".git"
        if git.is_dir():
            return _commit(git)
        if git.is_file():  # of a further working tree, or of a submodule
            line = _line(git)
            return _commit(above / line.removeprefix("gitdir: ")) if line.startswith("gitdir: ") else None
    return None


def _commit(git: Path) -> str | None:
    head = _line(git / "HEAD")
    if not head.startswith("ref: "):
        return _hash(head)
    ref = head.removeprefix("ref: ")
    if not _REF.fullmatch(ref) or ".." in ref:
        return None
    common = git / (_line(git / "commondir") or ".")
    return _hash(_line(git / ref)) or _hash(_line(common / ref)) or _packed(common / "packed-refs", ref)


def _packed(file: Path, ref: str) -> str | None:
    lines = (line.split(" ") for line in _text(file, _LARGEST_LIST).splitlines())
    return next((_hash(line[0]) for line in lines if line[1:] == [ref]), None)


def _hash(text: str) -> str | None:
    return text if _HASH.fullmatch(text) else None


def _line(file: Path) -> str:
    return _text(file, _LONGEST_LINE).partition("\n")[0].strip()


def _text(file: Path, most: int) -> str:
    """Return the start of a file, nothing of what cannot be read."""
    try:
        with open_regular(file) as opened:
            return opened.read(most).decode(errors="replace")
    except (OSError, ValueError):
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    """Return the name of the processor, where the system says so (Linux)."""
    return next(_model_names(_text(Path("/proc/cpuinfo"), 2**16)), "")


def _model_names(text: str) -> Iterator[str]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            yield value.strip()
