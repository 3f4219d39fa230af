"""The tests that are marked `cuda`, on this device."""

from __future__ import annotations

import re
import sys
from collections import Counter
from importlib.util import find_spec

from .results import Rows
from .setting import ROOT, Setting, run

_RESULT = re.compile(r"^(tests/\S+::.*?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b")
_REASON = re.compile(r"^(FAILED|ERROR) (tests/\S+::.*?)( - .*)?$")
_TINY = "float64 or state_comes_back"
_NO_TESTS = 5  # pytest's exit code


def tests(setting: Setting, rows: Rows) -> None:
    """Run tests/test_cuda*.py; a failed test is a row at once, the counts are another at the end."""
    files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_cuda*.py"))
    if find_spec("pytest") is None:
        rows.skip("pytest", "pytest is not installed")
        return
    if setting.tiny:
        files = [name for name in files if name.endswith("/test_cuda.py")]
    counts: Counter[str] = Counter()
    reasons: dict[str, str] = {}

    def on_line(line: str) -> None:
        if result := _RESULT.match(line):
            test, status = result.groups()
            counts[status.lower()] += 1
            if status in ("FAILED", "ERROR"):
                rows.add(test, "failed")
        elif reason := _REASON.match(line):
            reasons[reason[2]] = (reason[3] or "").removeprefix(" - ")

    # The options of pyproject.toml are those of xdist, which may be missing here; a GPU is for one process.
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-o", "addopts=", "-p", "no:cacheprovider", *files]
    command += ["-n", "0"] if find_spec("xdist") else []
    command += ["-k", _TINY] if setting.tiny else []
    ended = run(command, rows.seconds_left, on_line=on_line)
    for test, reason in reasons.items():
        rows.add(f"reason of {test}", "failed", reason=reason)
    if ended.code == _NO_TESTS:
        rows.skip("pytest", f"no test is selected by {_TINY!r}")
    elif ended.code == 0:
        rows.add("pytest", "ok", **counts)
    else:
        rows.add("pytest", "failed" if ended.code == 1 else "error", **counts, ended=ended.reason, output=ended.output)
