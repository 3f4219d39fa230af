"""Folders on every rung of the ladder: the same pixels, the right rung, a cache that is whole or not there."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torchvision.datasets import ImageFolder

from effnet_builder import ConfigError
from effnet_builder.train import cache, encoded, survey
from effnet_builder.train.data import DataError, Dataset, Storage, load_dataset, place, split
from effnet_builder.train.images import Resident
from effnet_builder.train.storage import Room, in_bytes

KEPT = [Storage.memory, Storage.cache, Storage.stream]


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """120 images to train and 10 to test, of two classes and many sizes."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 5)):
        for name in ("cat", "dog"):
            for i in range(count):
                shape = (*generator.integers(8, 40, 2), 3)
                save(tmp_path / "pets" / part / name / f"{i:02}.png", generator.integers(0, 256, shape, np.uint8))
    return tmp_path / "pets"


@pytest.fixture
def load(pets: Path, tmp_path: Path) -> Callable[..., Dataset]:
    def load(storage: str = "auto", channels: int = 3, size: int = 16, folder: Path = pets, **options: Any) -> Dataset:
        options = {"progress": lambda items, *_: items, "cache_dir": tmp_path / "cache"} | options
        return load_dataset(f"folder:{folder}", channels=channels, size=size, storage=storage, **options)

    return load


def reference(path: Path, channels: int, size: int) -> np.ndarray:
    """(C, S, S) by Pillow alone: the central square, resized, as grey or as red, green, blue in turn."""
    image = Image.open(path).convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    planes = np.asarray(image).reshape(size, size, -1).transpose(2, 0, 1)
    return np.stack([planes[channel % len(planes)] for channel in range(channels)])


def files_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


# The pixels


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_rung_has_the_pixels_of_pillow(pets: Path, load: Callable[..., Dataset], channels: int) -> None:
    for size, expected_size in ((16, 16), (64, 39)):
        for storage in KEPT:
            data = load(storage, channels, size)
            assert data.storage is storage
            for part, name in ((data.train, "train"), (data.test, "test")):
                theirs = ImageFolder(str(pets / name))
                assert part.labels.tolist() == theirs.targets
                found = part.read().numpy()
                assert found.shape == (len(theirs), channels, expected_size, expected_size)
                for image, (path, _) in zip(found, theirs.samples, strict=True):
                    assert np.array_equal(image, reference(Path(path), channels, expected_size))


def test_files_are_listed_as_torchvision_does(pets: Path, load: Callable[..., Dataset]) -> None:
    deep = pets / "train" / "cat" / "b" / "c"
    save(deep / "x.JPEG", np.zeros((9, 9, 3), np.uint8))
    save(pets / "train" / "cat" / "a.b" / "y.png", np.zeros((9, 9, 3), np.uint8))
    (pets / "elsewhere").mkdir()
    save(pets / "elsewhere" / "z.webp", np.zeros((9, 9, 3), np.uint8))
    (pets / "train" / "dog" / "link").symlink_to(pets / "elsewhere")
    (pets / "train" / "dog" / "é網.png").symlink_to(pets / "elsewhere" / "z.webp")
    (pets / "train" / "dog" / "notes.txt").write_text("")
    data = load("stream")
    pixels: Any = data.train.pixels
    theirs = ImageFolder(str(pets / "train")).samples
    assert [pixels.files.label(row) for row in data.train.index.tolist()] == [path for path, _ in theirs]
    assert data.ignored == 1


def test_odd_images_that_can_be_read(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (20, 30, 3), np.uint8)
    cats = tmp_path / "odd" / "train" / "cat"
    save(cats / "cmyk.jpg", pixels, "CMYK")
    save(cats / "grey.jpg", pixels, "L")
    Image.fromarray(pixels).save(cats / "mpo.jpg", "MPO", save_all=True, append_images=[Image.fromarray(255 - pixels)])
    save(cats / "gif.jpg", pixels, "P", format="GIF")
    save(cats / "palette.png", pixels, "P")
    save(cats / "alpha.png", generator.integers(0, 256, (20, 30, 4), np.uint8))
    save(cats / "grey-alpha.png", pixels, "LA")
    save(cats / "bits.png", pixels, "1")
    save(cats / "dot.png", pixels[:1, :1])
    save(cats / "line.png", np.tile(pixels, (1, 20, 1))[:1])
    clear = Image.fromarray(pixels).convert("P")
    clear.save(cats / "clear.png", transparency=bytes(range(256)))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright; the pixels stay as they are stored, as with ImageFolder
    save(cats / "turned.jpg", pixels, exif=turned)
    shutil.copytree(tmp_path / "odd" / "train", tmp_path / "odd" / "test")
    for storage in KEPT:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = load(storage, folder=tmp_path / "odd")
            data.train.read()
        for row, path in enumerate(sorted(cats.iterdir())):
            expected = ImageFolder(str(tmp_path / "odd" / "train")).loader(str(path)).convert("RGB")
            expected.save(tmp_path / "plain.png")
            assert np.array_equal(data.train.read()[row].numpy(), reference(tmp_path / "plain.png", 3, 16)), path


def test_large_jpegs_are_decoded_at_a_fraction_and_look_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[0:800, 0:1200]
    waves = np.stack([np.sin(rows / 50), np.cos(columns / 70), np.sin((rows + columns) / 90)], 2)
    save(tmp_path / "a.jpg", (127 + 120 * waves).astype(np.uint8), quality=95)
    asked: list[tuple[int, int]] = []
    real = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda image, mode: asked.append(image.size) or real(image, mode))
    out = np.zeros((3, 100, 100), np.uint8)
    encoded.decode((tmp_path / "a.jpg").read_bytes(), out)
    assert asked == [(300, 200)]
    assert np.abs(out.astype(int) - reference(tmp_path / "a.jpg", 3, 100)).mean() < 1


# Which rung


def test_the_first_rung_with_room_is_taken() -> None:
    assert Room(None, None).choose(10**15) is Storage.memory
    assert Room(200, 0).choose(100) is Storage.memory
    assert Room(199, 112).choose(100) is Storage.cache
    assert Room(199, None).choose(100) is Storage.cache
    assert Room(199, 111).choose(100) is Storage.stream


def test_auto_tells_what_it_chose(
    load: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "130 images of 16 px, 99.8 kB: "
    assert load().kept == said + "kept in memory"
    monkeypatch.setattr("effnet_builder.train.data.free_memory", lambda: 150_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    streamed = load()
    assert streamed.kept == (
        f"{said}decoded anew in every epoch by the workers: no room for a cache of 99.8 kB in {tmp_path / 'cache'}"
    )
    assert streamed.storage is Storage.stream
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9))  # type: ignore[attr-defined]
    cached = load()
    assert cached.storage is Storage.cache
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    assert cached.kept == f"{said}cached in {file}"
    assert load("stream").kept == f"{said}decoded anew in every epoch by the workers: as asked for"
    assert [in_bytes(n) for n in (5, 1234, 184_320_000, 12_300_000_000)] == ["5 B", "1.2 kB", "184 MB", "12.3 GB"]


def test_small_sets_are_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for storage in ("cache", "stream"):
        with pytest.raises(ConfigError, match=f"storage {storage} is for folder, webdataset; digits is kept in memory"):
            load_dataset("digits", channels=3, size=8, progress=lambda items, *_: items, storage=storage)
    digits = load_dataset("digits", channels=1, size=8, progress=lambda items, *_: items)
    assert digits.kept == "1,797 images of 8 px, 115 kB: kept in memory"


def test_only_images_in_memory_that_fit_go_to_the_device(load: Callable[..., Dataset]) -> None:
    there = torch.device("meta")  # no CUDA here, but another device than the CPU
    data = load("memory")
    assert place(data, torch.device("cpu"), 10**9) is data
    assert place(data, there, 199_679) is data  # twice 99,840 bytes are wanted
    assert place(data, there, 10**9, Storage.memory) is data
    moved = place(data, there, 199_680)
    assert (moved.storage, moved.where) == (Storage.device, "kept on meta")
    assert isinstance(moved.train.pixels, Resident)
    assert moved.train.pixels is moved.test.pixels
    assert moved.train.pixels.images.device == there
    assert torch.equal(moved.train.labels, data.train.labels)
    streamed = load("stream")
    assert place(streamed, there, 10**9) is streamed
    for other in (streamed, data):
        with pytest.raises(ConfigError, match=r"--storage device: images of 99\.8 kB do not go to meta"):
            place(other, there, 10**9 if other is streamed else 5, Storage.device)


def test_a_split_copies_no_pixels(load: Callable[..., Dataset]) -> None:
    data = load("stream").train
    train, valid = split(data, 0.1, seed=1)
    assert train.pixels is valid.pixels is data.pixels
    assert sorted([*train.index.tolist(), *valid.index.tolist()]) == list(range(120))
    assert torch.equal(train.read(torch.tensor([5])), data.pixels.read(train.index[5:6]))


# The cache


def no_decoding(*_: object) -> None:
    raise AssertionError("decoded again")


def test_a_cache_is_made_once_and_anew_when_the_files_change(
    pets: Path, load: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("cache")
    for name in ("decode", "short_side"):
        monkeypatch.setattr(survey, name, no_decoding)
    again = load("cache")
    assert torch.equal(again.train.read(), first.train.read())
    assert torch.equal(load("memory").train.read(), first.train.read())  # memory is filled from it, too
    with pytest.raises(ConfigError, match="decoded again"):
        load("cache", size=8)
    monkeypatch.undo()

    seen = [first.train.read()]
    victim = pets / "train" / "cat" / "07.png"
    content, changed = victim.read_bytes(), victim.stat().st_mtime_ns
    other = pets / "train" / "cat" / "08.png"
    changes: list[Callable[[], object]] = [
        lambda: save(pets / "train" / "cat" / "new.png", np.zeros((9, 9, 3), np.uint8)),
        lambda: (pets / "train" / "cat" / "new.png").unlink(),
        lambda: victim.write_bytes(other.read_bytes()),
        lambda: (victim.write_bytes(content), os.utime(victim, ns=(changed, changed + 1))),
    ]
    for change in changes:
        change()
        data = load("cache")
        assert not torch.equal(data.train.read(), seen[-1])
        assert torch.equal(data.train.read(), load("stream").train.read())
        seen.append(data.train.read())
    assert torch.equal(seen[-1], seen[0])
    assert len(files_in(tmp_path / "cache")) == 2  # one file of pixels, and what the stream remembers


def test_the_file_can_be_opened_by_others(load: Callable[..., Dataset], tmp_path: Path) -> None:
    data = load("cache")
    with safe_open(next((tmp_path / "cache").glob("*.safetensors")), "pt") as tensors:
        assert torch.equal(tensors.get_tensor("pixels")[:120], data.train.read())
        sums = [zlib.crc32(image.numpy().tobytes()) for image in tensors.get_tensor("pixels")]
        assert tensors.get_tensor("crc32").tolist() == sums


def test_a_torn_cache_is_never_read(load: Callable[..., Dataset], tmp_path: Path) -> None:
    expected = load("cache").train.read()
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    whole = path.read_bytes()
    broken = [whole[:cut] for cut in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1)]
    broken += [b"\xff" * 8 + whole[8:], whole[:9] + b"x" + whole[10:], whole + b"\0"]
    for content in broken:
        path.write_bytes(content)
        assert torch.equal(load("cache").train.read(), expected)
        assert path.read_bytes() == whole


def test_a_byte_that_changed_is_found_when_its_image_is_read(load: Callable[..., Dataset], tmp_path: Path) -> None:
    load("cache")
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + 7 * 3 * 256 + 100] ^= 1
    path.write_bytes(content)
    data = load("cache")
    for row in (6, 8):
        data.train.read(torch.tensor([row]))
    with pytest.raises(DataError, match=f"image 7 of {path} is not what was written; remove the file"):
        data.train.read(torch.tensor([6, 7]))
    with pytest.raises(ConfigError, match="image 7 of .* is not what was written"):
        load("memory")
    os.truncate(path, start + 100 * 3 * 256 + 5)
    with pytest.raises(DataError, match="image 100 of"):
        data.train.read(torch.tensor([99, 100]))


def test_an_open_cache_stays_what_it_was(pets: Path, load: Callable[..., Dataset]) -> None:
    old = load("cache")
    expected = old.train.read()
    shutil.rmtree(pets / "train" / "cat")
    save(pets / "train" / "cat" / "x.png", np.zeros((9, 9, 3), np.uint8))
    assert len(load("cache").train) == 61
    assert torch.equal(old.train.read(), expected)


def test_processes_that_build_at_once_make_one_cache(load: Callable[..., Dataset], tmp_path: Path) -> None:
    """Three processes start together; each says what it read, and how many images it decoded."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.SimpleQueue()

    def one() -> None:
        torch.set_num_threads(1)
        decoded: list[int] = []
        real = encoded.decode

        def slow(content: bytes, out: np.ndarray) -> None:
            decoded.append(1)
            time.sleep(0.005)
            real(content, out)

        survey.decode = slow
        barrier.wait(30)
        data = load("cache")
        answers.put((zlib.crc32(data.train.read().numpy()), len(decoded), data.notes))

    processes = [context.Process(target=one) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    found = [answers.get() for _ in processes]
    assert len({sums for sums, _, _ in found}) == 1
    assert sorted(decoded for _, decoded, _ in found) == [0, 0, 130]
    waited = ("waited for another process that made the same cache",)
    assert sorted((decoded == 0, notes == waited) for _, decoded, notes in found) == [
        (False, False),
        *[(True, True)] * 2,
    ]
    assert len(files_in(tmp_path / "cache")) == 1


KILLED = """
import os, signal, sys
from effnet_builder.train import cache, survey
from effnet_builder.train.data import load_dataset
real, count = survey.decode, []
def decode(content, out):
    count.append(1)
    if len(count) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(content, out)
survey.decode = decode
if int(sys.argv[3]) > 130:
    cache.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # the last moment
load_dataset(sys.argv[1], channels=3, size=16, progress=lambda items, *_: items, storage="cache", cache_dir=sys.argv[2])
"""


@pytest.mark.parametrize("moment", [1, 131])
def test_a_build_that_is_killed_leaves_nothing_that_is_read(
    pets: Path, load: Callable[..., Dataset], tmp_path: Path, moment: int
) -> None:
    command = [sys.executable, "-c", KILLED, f"folder:{pets}", str(tmp_path / "cache"), str(moment)]
    assert subprocess.run(command, check=False).returncode == -9
    (left,) = files_in(tmp_path / "cache")
    assert left.endswith(".safetensors.unfinished")
    other = tmp_path / "cache" / ".another-source.safetensors.unfinished"
    other.write_bytes(b"left by a process that was killed")
    expected = load("memory")
    assert torch.equal(load("cache").train.read(), expected.train.read())
    assert [name.endswith(".safetensors") for name in files_in(tmp_path / "cache")] == [True]


def test_an_interrupted_build_leaves_no_file(load: Callable[..., Dataset], tmp_path: Path) -> None:
    def interrupted(items: Iterable[object], total: int, what: str) -> Iterable[object]:
        if what != "reading images":
            yield from items
        for _ in items:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load("cache", progress=interrupted)
    assert files_in(tmp_path / "cache") == []
    assert not [thread for thread in threading.enumerate() if thread.name == "images"]


def test_another_process_that_builds_for_ever_is_not_waited_for(
    load: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("cache")
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    unfinished = path.with_name(f".{path.name}.unfinished")
    path.unlink()
    monkeypatch.setattr(cache, "_SILENCE", 0.3)
    shown: list[str] = []

    def progress(items: Iterable[object], total: int, what: str) -> Iterable[object]:
        shown.append(what)
        return items

    with unfinished.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process has been building it, and wrote nothing for 0 s"):
            load("cache", progress=progress)
        assert "waiting for the cache that another process makes" in shown
        assert unfinished.exists()
        monkeypatch.setattr("effnet_builder.train.data.free_memory", lambda: 1)
        assert load("auto").storage is Storage.stream
    assert load("cache").storage is Storage.cache


# Disks


def test_a_full_disk_is_a_sentence_or_a_stream(
    load: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the limit of the kernel on the size of a file; 99,840 bytes of pixels are wanted."""
    monkeypatch.setattr("effnet_builder.train.data.free_memory", lambda: 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ConfigError, match=r"no cache of 99\.8 kB can be made in .*: File too large"):
            load("cache")
        data = load("auto")
        images = data.train.read()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert data.kept.endswith(f"workers: no cache of 99.8 kB can be made in {tmp_path / 'cache'}: File too large")
    assert torch.equal(images, load("cache").train.read())


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync", "replace"])
def test_a_disk_that_fails_at_any_call(
    call: str, load: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, call, full)
    with pytest.raises(ConfigError, match="No space left on device"):
        load("cache")
    monkeypatch.undo()
    assert files_in(tmp_path / "cache") == []


def test_a_place_that_is_none(load: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"no cache of 99\.8 kB can be made in .*/file/below: Not a directory"):
        load("cache", cache_dir=tmp_path / "file" / "below")
    with pytest.raises(ConfigError, match="no place for a cache: "):
        load("cache", cache_dir="~nosuchuser/cache")
    monkeypatch.setattr("effnet_builder.train.data.free_memory", lambda: 1)
    assert load("auto", cache_dir=tmp_path / "file" / "below").storage is Storage.stream
    monkeypatch.setenv("EFFNET_BUILDER_DATA", str(tmp_path / "own"))
    assert f"cached in {tmp_path / 'own' / 'images'}/pets-" in load("auto", cache_dir=None).kept


# Images that cannot be read


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says that it is side x side px."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def spoil(folder: Path, whole: Path) -> dict[str, str]:
    """Files that are no images, by what is said of them."""
    content = whole.read_bytes()
    (folder / "a-text.jpg").write_text("not an image")
    (folder / "b-empty.png").write_bytes(b"")
    (folder / "c-cut.png").write_bytes(content[: len(content) // 2])
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "d-16.png")
    (folder / "e-bomb.png").write_bytes(bomb(30_000))
    (folder / "f-bomb.png").write_bytes(bomb(10_000))
    (folder / "g-dangling.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "h-pipe.jpg")
    (folder / "i-header.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "j-html.jpg").write_text("<html>404</html>")
    (folder / "k-loop.jpg").symlink_to("k-loop.jpg")
    (folder / "l-program.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    (folder / "m-huge.jpg").write_bytes(b"")
    os.truncate(folder / "m-huge.jpg", 2**31)
    return {
        "a-text.jpg": "no known format",
        "b-empty.png": "no known format",
        "c-cut.png": "truncated",
        "d-16.png": "more than 8 bits",
        "e-bomb.png": "exceeds limit of",
        "f-bomb.png": "exceeds limit of 89,478,485 px",
        "g-dangling.jpg": "No such file or directory",
        "h-pipe.jpg": "not a regular file",
        "i-header.jpg": "",
        "j-html.jpg": "no known format",
        "k-loop.jpg": "Too many levels of symbolic links",
        "l-program.jpg": "no known format",  # Pillow would let Ghostscript run it
        "m-huge.jpg": "2,147,483,648 bytes exceed limit of 1,073,741,824",
    }


@pytest.mark.parametrize("storage", KEPT)
def test_every_bad_file_is_listed_before_the_training(
    pets: Path, load: Callable[..., Dataset], tmp_path: Path, storage: Storage
) -> None:
    cats = pets / "train" / "cat"
    expected = spoil(cats, cats / "00.png")
    with pytest.raises(ConfigError) as error:
        load(storage)
    lines = str(error.value).splitlines()
    assert len(lines) == len(expected)
    for line, (name, reason) in zip(lines, expected.items(), strict=True):
        assert line.startswith(f"{cats / name}: not a readable image: ")
        assert reason in line
    assert not list((tmp_path / "cache").glob("*"))
    with pytest.raises(ConfigError, match=r"12 of 143 images cannot be read, more than 1%; the first is .*a-text\.jpg"):
        load(storage, on_bad="skip")


@pytest.mark.parametrize("storage", KEPT)
def test_few_bad_files_can_be_left_out(pets: Path, load: Callable[..., Dataset], storage: Storage) -> None:
    expected = load("memory")
    cats = pets / "train" / "cat"
    (cats / "05x.png").write_bytes((cats / "05.png").read_bytes()[:300])  # its header is right
    for _ in range(2):  # the second time, the cache and the stream remember
        data = load(storage, on_bad="skip")
        assert data.storage is storage
        assert len(data.notes) == 1
        assert data.notes[0].startswith(
            f"1 of 131 images are left out; the first is {cats / '05x.png'}, not a readable"
        )
        for ours, theirs in ((data.train, expected.train), (data.test, expected.test)):
            assert torch.equal(ours.read(), theirs.read())
            assert torch.equal(ours.labels, theirs.labels)
    if storage is not Storage.stream:
        with pytest.raises(ConfigError, match=r"05x\.png: not a readable image: .*truncated"):
            load(storage)
    else:
        with pytest.raises(ConfigError, match=r"05x\.png: not a readable image"):
            load(storage)  # it was decoded before, so it is known


def test_a_class_may_not_vanish(pets: Path, load: Callable[..., Dataset]) -> None:
    (pets / "test" / "wolf").mkdir()
    (pets / "train" / "wolf").mkdir()
    save(pets / "train" / "wolf" / "a.png", np.zeros((9, 9, 3), np.uint8))
    (pets / "test" / "wolf" / "a.png").write_bytes(b"")
    with pytest.raises(
        ConfigError, match=r"no image can be read of the classes wolf; the first is .*/test/wolf/a\.png"
    ):
        load(on_bad="skip")


def test_a_stream_is_looked_through_once(
    pets: Path, load: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    load("stream")
    monkeypatch.setattr(survey, "short_side", no_decoding)
    assert len(load("stream").train) == 120
    (pets / "train" / "cat" / "00.png").touch()
    with pytest.raises(ConfigError, match="decoded again"):
        load("stream")


def test_what_a_stream_remembers_may_be_damaged(load: Callable[..., Dataset], tmp_path: Path) -> None:
    load("stream")
    (known,) = (tmp_path / "cache").glob("*.json")
    for text in ("", "[]", "{}", '{"state": 1}', '{"side": 3, "bad": [], "decoded": true}', "\xff"):
        known.write_text(text)
        assert load("stream").train.pixels.shape[-1] == 16


def test_a_stream_finds_a_file_that_was_cut_since(pets: Path, load: Callable[..., Dataset]) -> None:
    victim = pets / "train" / "cat" / "05.png"
    content = victim.read_bytes()
    victim.write_bytes(content[:300])
    with pytest.raises(ConfigError, match=rf"^{victim}: not a readable image: .*truncated"):
        load("stream")
    victim.write_bytes(content)
    data = load("stream")
    victim.write_bytes(content[:300])
    with pytest.raises(DataError, match=rf"^{victim}: not a readable image: 300 bytes instead of {len(content):,}: it"):
        data.train.read()


def test_a_file_that_hangs_is_named(load: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(survey, "TIMEOUT", 0.3)
    monkeypatch.setattr("effnet_builder.train.ahead._GRACE", 0.1)
    monkeypatch.setattr(survey, "decode", lambda *_: released.wait(60))
    with pytest.raises(ConfigError, match=r"no answer for 0 s from .*/train/cat/00\.png or a file after it"):
        load("memory")
    released.set()


# The name of the data


def test_the_fingerprint_is_that_of_the_data(pets: Path, load: Callable[..., Dataset], tmp_path: Path) -> None:
    known = load("memory").fingerprint
    assert {load(storage, size=8).fingerprint for storage in KEPT} == {known}
    copy = Path(shutil.copytree(pets, tmp_path / "copy" / "pets", copy_function=shutil.copyfile))  # with new times
    assert load("stream", folder=copy).fingerprint == known
    (copy / "train" / "cat" / "00.png").rename(copy / "train" / "dog" / "00a.png")
    assert load("stream", folder=copy).fingerprint != known
    fakes = {load_dataset(f"fake:{n}x4", channels=3, size=8, progress=lambda i, *_: i).fingerprint for n in (40, 80)}
    assert fakes == {"fake:40x4", "fake:80x4"}


def test_loads_at_once_in_threads_end_whole(load: Callable[..., Dataset]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load("cache").train.read(), range(4)))
    assert all(torch.equal(images, found[0]) for images in found)
