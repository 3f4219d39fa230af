"""Builds the stub runtime for the torch that is installed, and says how to run a process under it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from .errors import Unavailable

Mode = Literal["emulate", "count"]

_HERE = Path(__file__).resolve().parent
_SOURCES = _HERE / "runtime"
_LIBRARY = "libcuda.so.1"
_SMOKE_TEST = "import torch; assert (torch.ones(2, device='cuda') + 1).sum().item() == 4"


def environment(mode: Mode = "emulate") -> dict[str, str]:
    """Return what to add to a process's environment so that it runs on the fake GPU; builds that if need be.

    The fake GPU goes on when the process imports torch; so do its own Python children. Raises Unavailable.
    """
    library = build()
    python_path = [str(_HERE / "startup"), str(_HERE.parent)]
    python_path += [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in (*python_path, "")
    ]
    preloaded = [path for path in os.environ.get("LD_PRELOAD", "").split(":") if path and Path(path).name != _LIBRARY]
    return {
        "LD_PRELOAD": ":".join([str(library), *preloaded]),
        "PYTHONPATH": os.pathsep.join(python_path),
        "FAKEGPU_MODE": mode,
        # torch.cuda.device_count() reads it; a machine's own setting is about its own GPUs.
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(16))),
    }


@cache
def build() -> Path:
    """Return the library, built if it is not there yet, and tested. Raises Unavailable."""
    headers = _cuda_headers()
    compiler = shutil.which("g++")
    if compiler is None:
        raise Unavailable("no g++ to build the fake GPU with")
    folder = _cache_folder() / f"{version('torch')}-{version('nvidia-cuda-runtime')}-{_digest(_SOURCES)}"
    library = folder / _LIBRARY
    tested = folder / f"tested-{_digest(_HERE)}"
    if not library.exists():
        _compile(compiler, headers, library)
    if not tested.exists():
        _smoke_test(library)
        tested.touch()
    return library


def _cuda_headers() -> Path:
    """Return the folder of the CUDA headers in torch's wheels, without importing torch."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(f"the fake GPU is for Linux on x86_64, not for {sys.platform} on {platform.machine()}")
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        raise Unavailable("torch is not installed")
    site = Path(torch.origin).parent.parent
    if not (site / "torch" / "lib" / "libtorch_cuda.so").exists():
        raise Unavailable("the installed torch is not a CUDA build")
    try:
        runtime = version("nvidia-cuda-runtime")
    except PackageNotFoundError:
        raise Unavailable("the fake GPU needs torch for CUDA 13 and its wheel nvidia-cuda-runtime") from None
    headers = site / "nvidia" / f"cu{runtime.split('.')[0]}" / "include"
    if not (headers / "cuda_runtime_api.h").exists():
        raise Unavailable("the CUDA headers are missing from the wheel nvidia-cuda-runtime")
    return headers


def _digest(folder: Path) -> str:
    """Return a digest of the sources in a folder."""
    digest = hashlib.sha256()
    for source in sorted(path for path in folder.rglob("*") if path.suffix in {".cpp", ".h", ".py", ".txt"}):
        digest.update(source.relative_to(folder).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    """Return a folder of this user's under the temporary folder, into which nobody else can write."""
    folder = Path(tempfile.gettempdir()) / f"fakegpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Unavailable(f"{folder} must be a folder of this user's with mode 0700")
    return folder


def _compile(compiler: str, headers: Path, library: Path) -> None:
    """Compile under a temporary name, then rename: processes that build at the same time do not disturb each other."""
    library.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        folder = Path(name)
        names = (_SOURCES / "libcuda_symbols.txt").read_text(encoding="utf-8").split()
        rest = folder / "rest.cpp"
        rest.write_text("".join(f'extern "C" int {name}() {{ return 0; }}\n' for name in names), encoding="utf-8")
        # One library is both: preloaded, it comes before the real libcudart, and its name is that of the driver.
        command = [
            compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-pthread", "-w",
            "-I", str(_SOURCES / "include"), "-I", str(headers),
            *sorted(str(path) for path in _SOURCES.glob("*.cpp")), str(rest),
            f"-Wl,-soname,{_LIBRARY}", "-o", str(folder / _LIBRARY),
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            errors = [line for line in result.stderr.splitlines() if "error" in line] or ["no message"]
            raise Unavailable(f"the fake GPU does not compile: {errors[0]}")
        (folder / _LIBRARY).rename(library)


def _smoke_test(library: Path) -> None:
    """Compute a sum in a process of its own. Raises Unavailable with the last line of its error if that fails."""
    settings = ("FAKE_CUDA_", "FAKE_PINNED_", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "FAKEGPU_RANKS")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    clean |= {
        "LD_PRELOAD": str(library),
        "PYTHONPATH": os.pathsep.join([str(_HERE / "startup"), str(_HERE.parent)]),
        "FAKEGPU_MODE": "emulate",
    }
    command = [sys.executable, "-c", _SMOKE_TEST]
    try:
        result = subprocess.run(command, env=clean, capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        raise Unavailable("the fake GPU does not work with this torch: its test takes more than 300 s") from None
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"its test ended with {result.returncode}"]
        raise Unavailable(f"the fake GPU does not work with this torch: {lines[-1]}")
