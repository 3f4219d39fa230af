"""The loader: the same batches from everywhere and with any number of workers; faults end in one error, and soon."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from effnet_builder.train import encoded, loading
from effnet_builder.train.ahead import ahead
from effnet_builder.train.data import DataError, ImageSet, in_memory, load_dataset
from effnet_builder.train.images import Resident
from effnet_builder.train.loading import Loader

CPU = torch.device("cpu")
COUNT = 30  # to train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("loading") / "pets"
    generator = np.random.default_rng(0)
    for part, count in (("train", COUNT // 2), ("test", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (20 + i, 24, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i:02}.jpg")
    return root


def train_set(folder: Path, storage: str) -> ImageSet:
    data = load_dataset(
        f"folder:{folder}", channels=3, size=16, progress=lambda items, *_: items, storage=storage,
        cache_dir=folder.parent / "cache",
    ).train  # fmt: skip
    return data.take(torch.arange(COUNT).flip(0))  # the index into the set is not that into the source


@pytest.fixture
def streamed(folder: Path) -> ImageSet:
    return train_set(folder, "stream")


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PIECE", 4)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    soon(lambda: not [t for t in threading.enumerate() if t.name == "images"], "no thread of the loader")
    soon(lambda: not multiprocessing.active_children(), "no process of the loader")


def soon(condition: Callable[[], bool], what: str) -> None:
    """A bound on what has no other signal."""
    for _ in range(100):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within 5 s: {what}")


def batches(seed: int = 0, sizes: tuple[int, ...] = (1, 13, 9, 7)) -> tuple[Tensor, ...]:
    return torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed)).split(sizes)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("storage", "workers"), [("memory", 0), ("cache", 0), ("stream", 0), ("stream", 1), ("stream", 2)]
)
def test_every_storage_and_number_of_workers_gives_the_same_bits(folder: Path, storage: str, workers: int) -> None:
    reference = train_set(folder, "memory")
    images = reference.read()
    loader = Loader(train_set(folder, storage), CPU, workers)
    for epoch in range(2):
        asked = batches(epoch)
        found = list(loader.batches(asked))
        assert len(found) == len(asked)
        for (x, y, index), wanted in zip(found, asked, strict=True):
            assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)
            assert torch.equal(x, images[wanted])
            assert torch.equal(y, reference.labels[wanted])
            assert torch.equal(index, wanted)
    assert list(loader.batches([])) == []
    assert [len(x) for x, _, _ in loader.batches([torch.arange(0), torch.arange(2)])] == [0, 2]


def test_images_in_memory_are_read_ahead_for_another_device() -> None:
    """`meta` has no pixels, but shapes, and the way there is the same as to CUDA but for pinned memory."""
    images = torch.arange(10 * 12, dtype=torch.uint8).view(10, 3, 2, 2)
    data = in_memory(images, torch.arange(10))
    found = list(Loader(data, torch.device("meta")).batches(torch.arange(10).split(4)))
    assert [(x.shape, x.device.type, y.device.type) for x, y, _ in found] == [
        ((count, 3, 2, 2), "meta", "meta") for count in (4, 4, 2)
    ]
    there = ImageSet(Resident(images.to("meta")), data.labels, data.index)
    assert [x.shape[0] for x, _, _ in Loader(there, torch.device("meta")).batches(torch.arange(10).split(4))] == [
        4,
        4,
        2,
    ]


@pytest.mark.usefixtures("small_pieces")
def test_workers_stay_for_the_next_epoch(streamed: ImageSet) -> None:
    loader = Loader(streamed, CPU, workers=2)
    pids = []
    for epoch in range(2):
        pids += [{child.pid for child in multiprocessing.active_children()} for _ in loader.batches(batches(epoch))]
    assert len(pids[0]) == 2
    assert all(found == pids[0] for found in pids)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_epoch_leaves_nothing_and_the_next_is_whole(streamed: ImageSet, workers: int) -> None:
    loader = Loader(streamed, CPU, workers)
    expected = streamed.read()
    for stop in (0, 1, 3):
        with closing(loader.batches(batches())) as running:  # type: ignore[type-var]
            for _ in range(stop):
                next(running)
        assert not [t for t in threading.enumerate() if t.name == "images"]
        assert not multiprocessing.active_children()
    with pytest.raises(KeyboardInterrupt):
        for _ in loader.batches(batches()):
            raise KeyboardInterrupt
    assert all(torch.equal(x, expected[index]) for x, _, index in loader.batches(batches()))


@pytest.mark.usefixtures("small_pieces")
def test_two_epochs_of_one_loader_at_once_do_not_mix(streamed: ImageSet) -> None:
    loader, expected = Loader(streamed, CPU, workers=1), streamed.read()
    for one, other in zip(loader.batches(batches(0)), loader.batches(batches(1)), strict=True):
        for x, _, index in (one, other):
            assert torch.equal(x, expected[index])


@pytest.mark.usefixtures("small_pieces")
def test_it_runs_ahead_but_not_far(streamed: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_THREADS", 1)
    decoded: list[int] = []
    monkeypatch.setattr(encoded, "decode", lambda content, out: decoded.append(len(content)))
    with closing(Loader(streamed, CPU).batches([torch.arange(8)] * 100)) as running:  # type: ignore[type-var]
        for taken in range(1, 4):
            next(running)
            # one piece of four that the thread is at, and two batches of two pieces, less one that was just taken
            soon(lambda: len(decoded) == 8 * taken + 16, f"{decoded} images decoded")  # noqa: B023


def test_the_time_waited_is_that_between_asking_and_having(streamed: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(loading.time, "perf_counter", lambda: float(next(ticks)))
    loader = Loader(streamed, CPU)
    list(loader.batches(batches()))
    assert loader.waited == 4  # one tick for each batch, and none for what the caller does between them
    list(loader.batches(batches()))
    assert loader.waited == 8


# Faults


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_file_that_breaks_during_the_training_is_named(folder: Path, workers: int) -> None:
    data = train_set(folder, "stream")
    victim = folder / "train" / "cat" / "05.jpg"
    whole = victim.read_bytes()
    try:
        for content in (whole[:300], b"", b"no image"):
            victim.write_bytes(content)
            with pytest.raises(DataError, match=r"train/cat/05\.jpg: not a readable image: "):
                list(Loader(data, CPU, workers).batches(batches()))
        victim.unlink()
        with pytest.raises(DataError, match=r"train/cat/05\.jpg: not a readable image: No such file or directory"):
            list(Loader(data, CPU, workers).batches(batches()))
    finally:
        victim.write_bytes(whole)


def watched(loader: Loader, count: int, expected: Tensor, harm: Callable[[], None]) -> None:
    """Read so many batches, with some harm after the first, and compare them."""
    for number, (images, _, index) in enumerate(loader.batches(batches() * count)):
        assert torch.equal(images, expected[index])
        if number == 0:
            harm()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (signal.SIGKILL, "SIGKILL; perhaps the memory was full"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGALRM, "SIGALRM"),
    ],
)
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(streamed: ImageSet, sent: int, name: str) -> None:
    loader, expected = Loader(streamed, CPU, workers=2), streamed.read()
    before = signal.signal(signal.SIGTERM, lambda *_: print("the parent's own handler"))
    said = f"^a worker that decodes images was killed by {name}; it was at .*\\.jpg, or"
    try:
        with pytest.warns(UserWarning, match=said):
            watched(loader, 20, expected, lambda: os.kill(multiprocessing.active_children()[0].pid or 0, sent))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(multiprocessing.active_children()) == 2
    assert all(torch.equal(x, expected[index]) for x, _, index in loader.batches(batches()))


@pytest.mark.usefixtures("small_pieces")
def test_images_that_kill_every_worker_are_an_error(streamed: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "decode", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    said = "was killed by SIGKILL; perhaps the memory was full, as another one before; it was at .*\\.jpg, or"
    with pytest.warns(UserWarning, match="another one reads them"), pytest.raises(DataError, match=said):
        list(Loader(streamed, CPU, workers=2).batches(batches()))
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("small_pieces")
def test_an_interrupt_from_the_keyboard_does_not_reach_the_workers(streamed: ImageSet) -> None:
    loader = Loader(streamed, CPU, workers=2)
    seen = 0
    for _ in loader.batches(batches()):
        seen += 1
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGINT)
    assert seen == 4


@pytest.mark.usefixtures("small_pieces")
def test_a_worker_that_stands_still_is_replaced(streamed: ImageSet) -> None:
    loader, expected = Loader(streamed, CPU, workers=1, timeout=0.5), streamed.read()
    said = r"a worker that decodes images gave no answer for 0\.5 s; it was at .*\.jpg, or"
    with pytest.warns(UserWarning, match=said):
        watched(loader, 5, expected, lambda: os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGSTOP))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_never_read_is_an_error(
    streamed: ImageSet, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(encoded, "decode", lambda *_: released.wait(60))
    monkeypatch.setattr("effnet_builder.train.ahead._GRACE", 0.1)
    said = r"(within|for) 0\.5 s(; the first of them is|, as another one before; it was at) .*/train/.*\.jpg"
    warned = pytest.warns(UserWarning, match="gave no answer") if workers else nullcontext()
    with warned, pytest.raises(DataError, match=said):
        list(Loader(streamed, CPU, workers, timeout=0.5).batches(batches()))
    released.set()


SCRIPT = """
import os, signal, sys, torch
from effnet_builder.train import encoded, loading
from effnet_builder.train.data import load_dataset
loading.PIECE = 4
data = load_dataset(sys.argv[1], channels=3, size=16, progress=lambda items, *_: items, storage=sys.argv[3], cache_dir=sys.argv[2])
loader = loading.Loader(data.train, torch.device("cpu"), workers=2)
running = loader.batches(torch.arange(30).split(2) * 100)
next(running)
import multiprocessing
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


def gone(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize(
    ("storage", "end", "code"),
    [
        ("stream", "os.kill(multiprocessing.active_children()[0].pid, signal.SIGSTOP); raise SystemExit(3)", 3),
        ("stream", "os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("cache", "raise SystemExit(3)", 3),  # with threads that are at work in torch
    ],
)
def test_no_process_outlives_the_training(folder: Path, tmp_path: Path, storage: str, end: str, code: int) -> None:
    """With an epoch under way, whose iterator nobody closed."""
    command = [sys.executable, "-c", SCRIPT + end, f"folder:{folder}", str(tmp_path), storage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        assert process.stderr is not None
        assert (process.wait(60), process.stderr.read()) == (code, "")
    assert len(pids) == (2 if storage == "stream" else 0)
    soon(lambda: all(gone(pid) for pid in pids), "the workers are gone")


# What runs ahead


def test_results_come_in_order_and_errors_at_their_place() -> None:
    def work(item: int) -> int:
        if item == 7:
            raise ValueError("seven")
        return item * item

    for threads in (1, 3):
        for depth in (1, 2, 5, 100):
            running = ahead([work] * threads, range(10), depth, 30)
            assert [next(running) for _ in range(7)] == [item * item for item in range(7)]
            with pytest.raises(ValueError, match="seven"):
                next(running)
    assert list(ahead([work], [], 3, 30)) == []


def test_an_item_that_cannot_be_made_stops_the_threads() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(ahead([abs, abs], items(), 4, 30))


def test_memory_while_training_is_that_of_some_batches(tmp_path: Path) -> None:
    """600 images of 256 px are 118 MB decoded; the process grows by far less while it shows them all."""
    for part, count in (("train", 600), ("test", 1)):
        (tmp_path / "big" / part / "one").mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (256, 256), (i % 256, 0, 0)).save(tmp_path / "big" / part / "one" / f"{i}.bmp")
    script = """
import resource, sys, torch
from effnet_builder.train.data import load_dataset
from effnet_builder.train.loading import Loader
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for storage in ("stream", "cache"):
    before = peak()
    data = load_dataset(
        sys.argv[1], channels=3, size=256, progress=lambda items, *_: items, storage=storage, cache_dir=sys.argv[2]
    )
    loader = Loader(data.train, torch.device("cpu"))
    seen = sum(len(images) for images, _, _ in loader.batches(torch.arange(600).split(16)))
    print(data.storage.value, seen, peak() - before)
"""
    command = [sys.executable, "-c", script, f"folder:{tmp_path / 'big'}", str(tmp_path / "cache")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [line.split() for line in result.stdout.splitlines()]
    assert [(storage, seen) for storage, seen, _ in found] == [("stream", "600"), ("cache", "600")]
    assert all(int(grown) * 1024 < 600 * 3 * 256 * 256 / 2 for _, _, grown in found), found
