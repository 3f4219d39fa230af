"""pytest plugin of the child process: runs the tests that its parent asks for, and sends it the reports."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from typing import Any

import pytest

_PR_SET_PDEATHSIG = 1


class _Pipes:
    """Lines of JSON from and to the parent. They are not inherited by what the tests start."""

    def __init__(self) -> None:
        requests, reports = (int(number) for number in os.environ.pop("FAKEGPU_PIPES").split(","))
        os.set_inheritable(requests, False)
        os.set_inheritable(reports, False)
        self.requests = os.fdopen(requests, encoding="utf-8")
        self._reports = os.fdopen(reports, "w", encoding="utf-8")
        self._process = os.getpid()

    def send(self, message: dict[str, Any]) -> None:
        if os.getpid() == self._process:  # a process that a test forked has no say
            self._reports.write(json.dumps(message, default=str) + "\n")
            self._reports.flush()


def pytest_configure(config: pytest.Config) -> None:
    """Open the pipes, and end with the parent, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    config.stash[_PIPES] = _Pipes()
    config.pluginmanager.register(_Reporter(config), "fakegpu-reporter")


class _Reporter:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._config.stash[_PIPES].send({"report": data})


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run what the parent asks for until it closes the pipe; None after an error of collection, which pytest reports."""
    if session.testsfailed:
        return None
    pipes = session.config.stash[_PIPES]
    items = {item.nodeid: item for item in session.items}
    pipes.send({"ready": True})
    for line in pipes.requests:
        request = json.loads(line)
        item = items.get(request["run"])
        if item is None:
            pipes.send({"unknown": request["run"]})
            continue
        next_item = items.get(request["next"])
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
        pipes.send({"done": item.nodeid})
    session._setupstate.teardown_exact(None)
    return True


_PIPES: pytest.StashKey[_Pipes] = pytest.StashKey()
