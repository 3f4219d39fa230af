"""benchmarks/gpu.py: what it keeps when something fails, and that it runs on the fake GPU; its estimate of bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fakegpu import Unavailable
from fakegpu.build import environment

from effnet_builder import load_spec, resolve

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from gpu_parts.results import Rows, read, within, write  # noqa: E402
from gpu_parts.setting import run  # noqa: E402
from gpu_parts.traffic import training_bytes  # noqa: E402

ON_FAKE_GPU = ["tests/fakegpu", "benchmarks/gpu.py"]


def benchmark(*command: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=280
    )


def statuses(rows: list[dict[str, Any]], part: str) -> dict[str, str]:
    return {row["case"]: row["status"] for row in rows if row["part"] == part}


def test_a_part_that_fails_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    try:
        environment()
    except Unavailable as error:
        pytest.skip(f"no fake GPU: {error.reason}")
    out = tmp_path / "out"
    parts = ["--parts", "environment", "train", "compare"]
    result = benchmark(*ON_FAKE_GPU, "--tiny", *parts, "--data", "folder:/nowhere", "--out", str(out))
    rows = read(out / "results.jsonl")
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stdout.startswith("Figures of speed mean nothing here: they are those of a fake GPU")

    assert set(statuses(rows, "environment").values()) == {"ok"}
    [machine] = [row for row in rows if row["case"] == "machine"]
    assert machine["device"] == "Fake GPU"

    [bad] = [row for row in rows if row["status"] in ("failed", "error")]
    assert bad["part"] == "train"
    assert bad["error"].startswith("CommandError: exit code 2")
    assert "/nowhere" in bad["output"]
    assert statuses(rows, "train")["part"] == "ok"  # the part came to its end

    compared = statuses(rows, "compare")
    for mode in ("training", "inference"):
        for library in ("effnet_builder", "timm", "torchvision"):
            assert compared[f"{mode}, {library}, 32 px, batch 2"] == "ok"
    assert compared["compiled"] == "skipped"

    assert json.loads((out / "results.json").read_text())["rows"] == rows
    table = (out / "results.md").read_text()
    assert "Figures of speed mean nothing here" in table
    assert "/nowhere" in table


def test_what_does_not_fit_into_the_budget_is_skipped_and_said(tmp_path: Path) -> None:
    """Earlier rows of other parts stay."""
    Rows(tmp_path / "results.jsonl", "train").add("earlier", "ok")
    Rows(tmp_path / "results.jsonl", "check").add("earlier", "failed")
    result = benchmark("benchmarks/gpu.py", "--parts", "check", "speed", "--budget", "0", "--out", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    rows = read(tmp_path / "results.jsonl")
    assert [(row["part"], row["case"], row["status"]) for row in rows] == [
        ("train", "earlier", "ok"),
        ("check", "part", "skipped"),
        ("speed", "part", "skipped"),
    ]
    assert "of the budget are left" in rows[1]["reason"]


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows, seen = Rows(path, "part", seconds=50), []

    def fail() -> dict[str, Any]:
        seen.append(len(read(path)))
        raise ValueError("first line\nsecond line")

    rows.measure("good", lambda: within(1e-12, 1e-9))
    rows.measure("bad", lambda: within(float("nan"), 1e-9))
    rows.measure("raises", fail)
    rows.measure("long", fail, seconds=60)
    assert seen == [2]
    found = read(path)
    assert [row["status"] for row in found] == ["ok", "failed", "error", "skipped"]
    assert found[1]["difference"] == "nan"
    assert found[2]["error"] == "ValueError: first line"
    assert "in fail" in found[2]["traceback"]

    with path.open("a") as file:
        file.write('{"part": "part", "case": "cut o')
    assert read(path) == found
    write(tmp_path, ["A note."], found)
    assert "| bad | failed | nan | 1e-09 |" in (tmp_path / "results.md").read_text()


def test_a_process_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    child = f"import time; time.sleep(3); open({str(tmp_path / 'late')!r}, 'w')"
    parent = f"import subprocess, sys; print('started', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    ended = run([sys.executable, "-c", parent], 1, group=True)
    assert (ended.code, ended.output) == (None, "started")
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_bytes_of_a_compiled_step() -> None:
    """Inductor's own count for B0 at 224 px and batch size 8 is 340 MB an image, without weights about 330."""
    plans = {px: resolve(load_spec("efficientnet-b0"), resolution=px, num_classes=10) for px in (32, 192, 224)}
    assert training_bytes(plans[224], 8) == pytest.approx(340e6, rel=0.1)
    assert training_bytes(plans[224], 256) == pytest.approx(330e6, rel=0.1)
    # The other counts that were taken, in MB an image.
    for spec, count in (("efficientnetv2-s", 615e6), ("mobilenet-v3-large", 184e6)):
        assert training_bytes(resolve(load_spec(spec), resolution=224, num_classes=10), 8) == pytest.approx(
            count, rel=0.15
        )

    assert training_bytes(plans[32], 8) < training_bytes(plans[192], 8) < training_bytes(plans[224], 8)
    assert training_bytes(plans[224], 1) > training_bytes(plans[224], 8) > training_bytes(plans[224], 1024)
    wider = resolve(load_spec("efficientnet-b1"), resolution=224, num_classes=10)
    assert training_bytes(wider, 8) > training_bytes(plans[224], 8)
