"""What goes wrong on CUDA in a process of its own: kill -9, a device that fails, memory that cannot be pinned, ranks."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from many import free_port

pytestmark = pytest.mark.cuda

SPEC = "extends: efficientnet-pico\nname: small\nscaling: {width: 0.1, depth: 0.1, resolution: 8}\n"
TRAIN = [sys.executable, "-c", "from effnet_builder.cli.train import main; main()"]
EVALUATE = [sys.executable, "-c", "from effnet_builder.cli.evaluate import main; main()"]
OPTIONS = [
    "--data", "fake:96x3", "--set", "batch_size=16", "--epochs", "2", "--no-report", "--device", "cuda",
    "--save-every", "1", "--log-every", "1", "--set", "deterministic=true",
]  # fmt: skip
SECONDS = 120
RANK = """
import atexit, dataclasses, json, os
from fakegpu import active, counts

def write() -> None:
    found = counts()
    used = {"allocations": found.allocations, "pinned": found.pinned_allocations, "contexts": found.contexts}
    with open(os.environ["USED"] + os.environ["RANK"], "w") as file:
        json.dump(used, file)

if active():
    atexit.register(write)
from effnet_builder.cli.train import main
main()
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "small.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def whole(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    ended = train_arch(spec, *OPTIONS, "--out", run)
    assert ended.returncode == 0, ended.stderr
    return run


def train_arch(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [*TRAIN, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | variables, timeout=SECONDS, check=False
    )


def same(one: Path, other: Path) -> bool:
    names = ("model.safetensors", "metrics.csv", "metrics.jsonl", "evaluation.json")
    digests = [[hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names] for run in (one, other)]
    return digests[0] == digests[1]


def test_killed_and_resumed_it_ends_with_the_same_bits(spec: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen([*TRAIN, str(spec), *OPTIONS, "--out", str(run)], stdout=subprocess.DEVNULL)
    checkpoints, latest = run / "checkpoints", time.monotonic() + SECONDS
    while not list(checkpoints.glob("step-00000000[3-9].safetensors")):
        assert process.poll() is None
        assert time.monotonic() < latest
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (run / "result.json").exists()
    ended = train_arch("--resume", run)
    assert ended.returncode == 0, ended.stderr
    assert "going on after step " in ended.stdout
    assert same(run, whole)


def only_on_the_fake_one() -> None:
    from fakegpu import active

    if not active():
        pytest.skip("a real GPU does not fail when it is told to")


def test_a_device_that_fails_is_one_line_and_the_run_is_resumed(spec: Path, whole: Path, tmp_path: Path) -> None:
    only_on_the_fake_one()
    run = tmp_path / "run"
    ended = train_arch(spec, *OPTIONS, "--out", run, FAKE_CUDA_FAIL_AT="2000")
    assert ended.returncode == 1, ended.stdout
    assert not [word for word in ("Traceback", "frame #") if word in ended.stderr]
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("cuda:0 failed at step "), ended.stderr
    assert "CUDA error: uncorrectable ECC error encountered; step " in line
    assert line.endswith(f" is saved; to go on: train-arch --resume {run}")
    ended = train_arch("--resume", run)
    assert ended.returncode == 0, ended.stderr
    assert same(run, whole)


def test_a_device_that_fails_in_an_evaluation_is_one_line(whole: Path) -> None:
    only_on_the_fake_one()
    ended = subprocess.run(
        [*EVALUATE, str(whole), "--device", "cuda"], capture_output=True, text=True, timeout=SECONDS, check=False,
        env=os.environ | {"FAKE_CUDA_FAIL_AT": "3"},
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "the device failed: CUDA error: uncorrectable ECC error encountered"
    assert not [word for word in ("Traceback", "frame #") if word in ended.stderr]


def test_without_memory_to_pin_a_run_is_slower_and_says_so(spec: Path, whole: Path, tmp_path: Path) -> None:
    only_on_the_fake_one()
    run = tmp_path / "run"
    ended = train_arch(spec, *OPTIONS, "--storage", "memory", "--out", run, FAKE_PINNED_BYTES="4096")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("warning: the system pins no more memory") == 1
    assert same(run, whole)


@pytest.mark.cuda(devices=2)
@pytest.mark.parametrize("changes", [(), ("precision=fp16", "accumulate=2"), ("sync_batch_norm=true",)])
def test_two_ranks_on_two_devices(changes: tuple[str, ...], spec: Path, tmp_path: Path) -> None:
    """What NCCL would refuse, a CPU tensor in a collective of the default group; and whose device is used by whom."""
    log = tmp_path / "collectives.jsonl"
    options = [option for change in changes for option in ("--set", change)]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", f"{free_port()}",
        "--no-python", sys.executable, "-c", RANK, str(spec), *OPTIONS, *options, "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    variables = os.environ | {"FAKEGPU_RANKS": "1", "FAKEGPU_COLLECTIVES": str(log), "OMP_NUM_THREADS": "1"}
    variables["USED"] = str(tmp_path / "used-")
    ended = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "in 2 processes" in ended.stdout
    from fakegpu import active

    if active():
        collectives = [json.loads(line) for line in log.read_text().splitlines()]
        for rank in (0, 1):
            devices = {device for one in collectives if one["rank"] == rank for device in one["devices"]}
            assert devices == {f"cuda:{rank}"}
            for what, used in json.loads((tmp_path / f"used-{rank}").read_text()).items():
                assert [device for device, count in enumerate(used) if count] == [rank], (rank, what, used)
