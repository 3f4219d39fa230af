"""The fake GPU's settings, ranks, entry points and pytest plugin, each in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fakegpu
import pytest
from many import free_port

TESTS = Path(fakegpu.__file__).parent.parent


@pytest.fixture(autouse=True)
def available() -> None:
    try:
        fakegpu.build.build()
    except fakegpu.Unavailable as error:
        pytest.skip(error.reason)


def run(program: str, mode: str = "emulate", **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a program on a fake GPU of its own."""
    variables = os.environ | fakegpu.build.environment(mode) | {name: str(value) for name, value in settings.items()}
    program = f"import torch, fakegpu\nCUDA = torch.device('cuda')\n{program}"
    return subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False, timeout=200
    )


def test_limits_of_memory_and_two_devices() -> None:
    result = run(
        "kept = []\n"
        "try:\n"
        "    while True: kept.append(torch.empty(4 << 20, device=CUDA))\n"
        "except torch.OutOfMemoryError: print(len(kept))\n"
        "try: kept[0] + torch.ones(1, device='cuda:1')\n"
        "except RuntimeError as error: print(str(error)[:62])\n"
        "try: [torch.ones(1 << 20).pin_memory() for _ in range(3)]\n"
        "except torch.AcceleratorError as error: print(str(error).splitlines()[0])\n",
        FAKE_CUDA_BYTES=64 << 20, FAKE_CUDA_DEVICES=2, FAKE_PINNED_BYTES=8 << 20,
    )  # fmt: skip
    refused = "Expected all tensors to be on the same device, but found at le"
    assert result.stdout.splitlines() == ["4", refused, "CUDA error: out of memory"], result.stderr


def test_a_device_that_dies() -> None:
    result = run(
        "x = torch.ones(3, device=CUDA)\n"
        "x.sum().item()\n"
        "for function in (lambda: x.sum().item(), lambda: x + 1, torch.cuda.synchronize):\n"
        "    try: function()\n"
        "    except torch.AcceleratorError as error: print(str(error).splitlines()[0])\n",
        FAKE_CUDA_FAIL_AT=2,
    )
    assert result.stdout.splitlines() == ["CUDA error: uncorrectable ECC error encountered"] * 3, result.stderr


def test_two_ranks(tmp_path: Path) -> None:
    """By NCCL's name; each stays on its device, and a CPU tensor that NCCL would refuse is recorded as such."""
    script, record = tmp_path / "script.py", tmp_path / "collectives.jsonl"
    script.write_text(
        "import os, torch, fakegpu\n"
        "import torch.distributed as dist\n"
        "rank = int(os.environ['LOCAL_RANK'])\n"
        "torch.cuda.set_device(rank)\n"
        "device = torch.device('cuda', rank)\n"
        "dist.init_process_group('nccl', device_id=device)\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))\n"
        "model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model).to(device)\n"
        "model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])\n"
        "model(torch.randn(4, 3, 8, 8, device=device)).square().mean().backward()\n"
        "total = torch.full((2,), rank + 1.0, device=device)\n"
        "dist.all_reduce(total)\n"
        "assert total.tolist() == [3, 3], total\n"
        "dist.broadcast(torch.zeros(2), 0)\n"
        "assert fakegpu.counts().contexts == (rank == 0, rank == 1), fakegpu.counts()\n"
        "dist.destroy_process_group()\n"
    )
    environment = os.environ | {"FAKE_CUDA_DEVICES": "2", "FAKEGPU_COLLECTIVES": str(record), "WORLD_SIZE": "2",
                                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{free_port()}"}  # fmt: skip
    environment.pop("LD_PRELOAD", None)  # as torchrun starts its workers, which has no GPU itself
    command = [sys.executable, str(Path(fakegpu.__file__).parent), str(script)]
    ranks = [
        subprocess.Popen(
            command, env=environment | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=100)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert {line["rank"] for line in lines} == {0, 1}
    assert [line["op"] for line in lines if "cpu" in line["devices"]] == ["broadcast_"] * 2
    assert all(line["devices"] in (["cpu"], [f"cuda:{line['rank']}"]) for line in lines)


SAMPLE = """
import os, pytest, torch
pytestmark = pytest.mark.cuda

@pytest.fixture(scope="module")
def ones():
    return torch.ones(3, device="cuda")

def test_passes(ones): assert ones.sum().item() == 3
def test_fails(ones): assert ones.sum().item() == 4
@pytest.mark.parametrize("text", ["a b/[c]::\u00e9\\n"])
def test_parameter(text): pass
def test_skips(): pytest.skip("of its own will")
@pytest.mark.xfail
def test_expected(): assert torch.zeros(1, device="cuda").item()
@pytest.mark.real_gpu
def test_real(): pass
def test_dies(): os.write(2, b"the last words\\n"); os._exit(3)
def test_after(ones): assert ones.is_cuda
"""


def test_pytest_runs_each_test_in_a_child_process(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from fakegpu.plugin import pytest_runtest_protocol, pytest_unconfigure\n")
    (tmp_path / "test_sample.py").write_text(SAMPLE, encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CUDA"))}
    environment |= {"PYTHONPATH": str(TESTS), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-rA", "-p", "no:cacheprovider", "-s", str(tmp_path)]
    result = subprocess.run(
        command, env=environment, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False, timeout=200
    )
    summary = result.stdout[result.stdout.rindex("short test summary") :]
    assert "2 failed, 3 passed, 2 skipped, 1 xfailed" in summary, result.stdout
    for line in ("PASSED", "FAILED", "test_fails - AssertionError", "of its own will", "needs the kernels of a real GPU"):  # fmt: skip
        assert line in summary
    for text in ("the child process on the fake GPU ended with exit code 3", "the last words", "assert 3.0 == 4"):
        assert text in result.stdout


def test_a_command_of_the_project_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(TESTS / "fakegpu"), "build-arch", "efficientnet-pico"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "335,594" in result.stdout
