"""pytest: runs the tests with the marker `cuda` on a GPU or, without one, in a child process on the fake GPU.

`@pytest.mark.cuda(mode="count", devices=2)` chooses the fake GPU's mode ("emulate" if not given) and its number of devices.
tests/conftest.py imports the hooks. The child process runs what this one asks for, and sends the reports.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from .build import Mode, build
from .counters import active
from .errors import Unavailable
from .parent import Child

__all__ = ["pytest_runtest_protocol", "pytest_unconfigure"]

_REAL_ONLY = "needs the kernels of a real GPU"
_FAKE_ONLY = "asks for a setting of the fake GPU"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The process in which a test is to run."""

    path: Path
    mode: Mode
    devices: int


_children: dict[_Wanted, Child] = {}
_unavailable: list[str] = []
"""Why there is no fake GPU, once that is known."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Replay the reports of a CUDA test that a child process runs; None for all others, which pytest runs."""
    wanted = _wanted(item)
    if wanted is None:
        return None
    reason = _reason_to_skip(item, wanted)
    if reason is None and _runs_here():
        return None
    _close_children(except_of=wanted.path)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if reason is not None:
        reports = [_skip(item, reason)]
    else:
        reports = _child(item, wanted).run(item, nextitem if nextitem and _wanted(nextitem) == wanted else None)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    _tear_down(item, nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    if nextitem is None or nextitem.path != item.path:
        _close_children()
    return True


def pytest_unconfigure() -> None:
    """End the child processes."""
    _close_children()


def _wanted(item: pytest.Item) -> _Wanted | None:
    marker = item.get_closest_marker("cuda")
    if marker is None:
        return None
    return _Wanted(item.path, marker.kwargs.get("mode", "emulate"), marker.kwargs.get("devices", 1))


def _runs_here() -> bool:
    import torch

    # A child never starts another, whatever torch says there.
    return "FAKEGPU_MODE" in os.environ or torch.cuda.is_available()


def _reason_to_skip(item: pytest.Item, wanted: _Wanted) -> str | None:
    if _runs_here():
        if active():
            return _REAL_ONLY if item.get_closest_marker("real_gpu") else None
        import torch

        if wanted.mode != "emulate":
            return _FAKE_ONLY
        missing = wanted.devices - torch.cuda.device_count()
        return f"needs {wanted.devices} GPUs" if missing > 0 else None
    if item.get_closest_marker("real_gpu"):
        return _REAL_ONLY
    if not _unavailable:
        try:
            build()
        except Unavailable as error:
            _unavailable.append(f"no GPU, and no fake one: {error.reason}")
    return _unavailable[0] if _unavailable else None


def _skip(item: pytest.Item, reason: str) -> pytest.TestReport:
    path, line, _ = item.location
    where = (path, (line or 0) + 1, f"Skipped: {reason}")
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "skipped", where, "setup")


def _child(item: pytest.Item, wanted: _Wanted) -> Child:
    """Return the child process for a test; a new one if the last has died."""
    child = _children.get(wanted)
    if child is None or child.has_ended:
        child = _children[wanted] = Child(item.config, wanted.path, wanted.mode, wanted.devices)
    return child


def _close_children(except_of: Path | None = None) -> None:
    for wanted in [wanted for wanted in _children if wanted.path != except_of]:
        _children.pop(wanted).close()


def _tear_down(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Tear down what earlier tests of this process set up and the next does not need, as each test's end does."""
    call = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(nextitem), "teardown")
    if call.excinfo is not None:
        item.ihook.pytest_runtest_logreport(report=item.ihook.pytest_runtest_makereport(item=item, call=call))
