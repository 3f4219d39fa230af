"""A child process in which pytest runs the CUDA tests of one file on the fake GPU, as seen by its parent."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .build import Mode, environment

_SECONDS_TO_END = 60
_LINES_OF_OUTPUT = 80


class Child:
    """Runs tests one by one, as it is asked to."""

    def __init__(self, config: pytest.Config, path: Path, mode: Mode, devices: int) -> None:
        self._config = config
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        requests, self._requests = os.pipe()
        self._reports, reports = os.pipe()
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        variables |= environment(mode)
        variables |= {"FAKE_CUDA_DEVICES": str(devices), "FAKEGPU_PIPES": f"{requests},{reports}"}
        variables.setdefault("OMP_NUM_THREADS", "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *_options(config), str(path)],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=(requests, reports),
            start_new_session=True,  # so that what the tests start can be ended too
        )
        os.close(requests)
        os.close(reports)
        self._buffer = b""
        self._is_ready = False
        self._start_error: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether a new child is needed; not after one that could not even start, as the next could not either."""
        return self._process.poll() is not None and self._start_error is None

    def run(self, item: pytest.Item, next_item: pytest.Item | None) -> list[pytest.TestReport]:
        """Return the reports of a test; one of a failure if the process ended during it."""
        if self._start_error is not None:
            return [_failure(item, self._start_error)]
        request = {"run": item.nodeid, "next": next_item.nodeid if next_item else None}
        reports: list[pytest.TestReport] = []
        try:
            os.write(self._requests, json.dumps(request).encode() + b"\n")
            for message in self._messages():
                if "ready" in message:
                    self._is_ready = True
                if "report" in message:
                    reports.append(self._report(message["report"]))
                if "unknown" in message:
                    return [_failure(item, "the child process on the fake GPU does not collect this test")]
                if "done" in message:
                    return reports
        except BrokenPipeError:
            pass
        return [*(report for report in reports if report.passed), _failure(item, self._end())]

    def close(self) -> None:
        """Let the process end, or end it."""
        if self._requests < 0:
            return
        os.close(self._requests)
        self._requests = -1
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._kill()
            os.close(self._reports)
            self._output.close()

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Yield what the child sends, until it ends: a process of the tests may hold the pipe open for longer."""
        while True:
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                yield json.loads(line)
            # Asked before the pipe, so that what the child sent last is read before its end is noticed.
            has_ended = self._process.poll() is not None
            readable, _, _ = select.select([self._reports], [], [], 0 if has_ended else 0.5)
            if readable:
                data = os.read(self._reports, 1 << 20)
                if not data:
                    return
                self._buffer += data
            elif has_ended:
                return

    def _report(self, data: dict[str, Any]) -> pytest.TestReport:
        report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
        report.location = tuple(report.location)
        if report.skipped and isinstance(report.longrepr, list):
            report.longrepr = tuple(report.longrepr)  # JSON has no tuples, by which pytest knows a skip's place
        return report

    def _end(self) -> str:
        """Return what the process said at its end, and remember it if it never got to run a test."""
        code = self._process.wait()
        self._output.seek(0)
        lines = self._output.read().splitlines()[-_LINES_OF_OUTPUT:]
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        text = "\n".join([f"the child process on the fake GPU ended with {how}; its output:", *lines])
        if not self._is_ready:
            self._start_error = text
        self._kill()
        return text

    def _kill(self) -> None:
        """Kill the process and all that its tests left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _options(config: pytest.Config) -> list[str]:
    """Return the options of the child's pytest: those of this one that change what a report says."""
    option = config.option
    options = ["-p", "fakegpu.child", "-p", "no:cacheprovider", "--rootdir", str(config.rootpath)]
    if config.inipath is not None:
        options += ["-c", str(config.inipath)]
    if config.pluginmanager.hasplugin("xdist"):
        options += ["-n", "0"]
    options += [f"--tb={option.tbstyle}", f"--verbosity={option.verbose}", f"--capture={option.capture}"]
    options += ["--showlocals"] if option.showlocals else []
    for warning in option.pythonwarnings or ():
        options += ["-W", warning]
    for setting in option.override_ini or ():
        options += ["-o", setting]
    return options


def _failure(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", text, "call")
