"""Folders with files that are odd, broken, hostile or changed: said before the training, never a crash in it."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from harness import Command, Fault, Place, command, differences
from PIL import Image

EPOCH = "effnet_builder.train.engine:end_epoch"
SPEAK = "effnet_builder.cli.console:printable_lines"
PEAK = "DO import resource; print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)"


@pytest.fixture
def images(place: Place, tmp_path: Path) -> Path:
    """A copy of the photographs."""
    return Path(shutil.copytree(place.images, tmp_path / "images", copy_function=shutil.copy2))


def header(side: int) -> bytes:
    """A PNG that says that it is side x side px, and holds nothing."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def compressed_bomb(side: int) -> bytes:
    """A PNG of zeros that is side x side px, and a thousandth of that in bytes."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(3 * side + 1)) for _ in range(side)) + packer.flush()
    start, _, end = header(side).partition(struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    return start + struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data)) + end


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_every_bad_file_is_listed_and_none_is_trained_on(
    place: Place, images: Path, storage: str, tmp_path: Path
) -> None:
    folder = images / "train" / "china"
    whole = (folder / "1.jpg").read_bytes()
    bad = {
        "a-cut.jpg": whole[: len(whole) // 2],
        "b-text.jpg": b"this is no image",
        "c-empty.png": b"",
        "d-huge.png": header(50_000),
        "e-bomb.png": compressed_bomb(12_000),
        "f-noise.jpg": np.random.default_rng(0).bytes(5000),
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folder / "g-16-bits.png")
    (folder / "h-dangling.jpg").symlink_to("nowhere")
    (folder / "i-itself.jpg").symlink_to("i-itself.jpg")
    (folder / "j-folder.jpg").mkdir()  # no file, and so no image
    names = [*bad, "g-16-bits.png", "h-dangling.jpg", "i-itself.jpg"]
    run = tmp_path / "run"
    ended = command(place.start(run, "--storage", storage, data=images), tmp_path, Fault(SPEAK, 1, PEAK))
    assert ended.code == 2, ended.said()
    lines = ended.err.splitlines()
    assert [line.partition(": not a readable image: ")[0] for line in lines[:-1]] == [
        str(folder / name) for name in names
    ]
    assert lines[-1] == "9 problems; nothing was trained."
    assert int(ended.out.split()[-1]) < 1000, "MB; the images that were refused have more"
    assert not run.exists()


@pytest.mark.parametrize("storage", ["memory", "cache", "stream"])
def test_a_few_bad_files_are_left_out_with_their_names(
    place: Place, images: Path, storage: str, tmp_path: Path
) -> None:
    folder = images / "train" / "china"
    for i in range(150):
        shutil.copy(folder / f"{i % 27}.jpg", folder / f"copy-{i}.jpg")
    content = (folder / "1.jpg").read_bytes()
    (folder / "bad-1.jpg").write_bytes(content[: len(content) // 2])
    (folder / "bad-2.jpg").write_bytes(b"")
    more = "--storage", storage, "--on-bad", "skip", "--epochs", "1"
    environment = {"EFFNET_BUILDER_DATA": str(tmp_path / "data")}
    ended = command(place.start(tmp_path / "run", *more, data=images), tmp_path, environment=environment)
    assert ended.code == 0, ended.said()
    first, second = ended.err.splitlines()
    assert first.startswith(f"2 of 248 images are left out; the first is {folder}/bad-1.jpg, not a readable image: ")
    assert second == f"left out too: {folder}/bad-2.jpg, not a readable image: of no known format"


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_odd_images_are_trained_on(place: Place, images: Path, storage: str, tmp_path: Path) -> None:
    folder = images / "train" / "china"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 4), np.uint8)
    frames = [Image.fromarray(frame) for frame in pixels]
    for name in ("animated.png", "animated.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    frames[0].convert("P").save(folder / "animated-gif.png", "GIF", save_all=True, append_images=frames[1:])
    frames[0].convert("RGB").convert("CMYK").save(folder / "cmyk.jpg")
    frames[0].convert("P").save(folder / "palette.png")
    frames[0].save(folder / "alpha.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    frames[0].convert("RGB").save(folder / "turned.jpg", exif=turned)
    frames[0].crop((0, 0, 1, 1)).save(folder / "dot.png")
    frames[0].resize((3000, 1)).save(folder / "line.png")
    (folder / "note.txt").write_text("no image by its name")
    more = "--storage", storage, "--epochs", "1"
    ended = command(place.start(tmp_path / "run", *more, data=images), tmp_path)
    assert ended.code == 0, ended.said()
    assert ended.err == "1 files are left out: their names are not those of images\n"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_changes_during_the_training_stops_it_with_its_name(
    place: Place, undisturbed: dict[str, object], images: Path, workers: int, tmp_path: Path
) -> None:
    """By then other pixels, cut, or gone; put back, the run goes on as if nothing had been."""
    run, victims = tmp_path / "run", sorted((images / "train" / "flower").iterdir())
    more = "--storage", "stream", "--workers", workers
    harm = f"""DO
import os, pathlib
files = [pathlib.Path(path) for path in {list(map(str, victims))!r}]
for i, file in enumerate(files):
    file.write_bytes(file.read_bytes()[:200]) if i % 2 else file.unlink()
"""
    ended = command(place.start(run, *more, data=images), tmp_path, Fault(EPOCH, 1, harm, late=True))
    assert ended.code == 1, ended.said()
    said, saved = ended.err.splitlines()[-1].split("; step ")
    assert said.startswith(f"{images}/train/flower/")
    assert said.endswith((": it was changed since the start", "No such file or directory"))
    assert saved in ("7 is saved", "8 is saved")
    refused = command(["--resume", run], tmp_path)
    assert refused.code == 2, refused.said()
    for victim in victims:
        shutil.copy2(place.images / "train" / "flower" / victim.name, victim)
    assert command(["--resume", run], tmp_path).code == 0
    assert not set(differences(run, undisturbed)) - {"steps"}


@pytest.mark.parametrize("storage", ["memory", "cache"])
def test_files_that_go_away_during_the_training_cost_nothing_where_they_were_read(
    place: Place, undisturbed: dict[str, object], images: Path, storage: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    remove = f"DO import shutil; shutil.rmtree({str(images)!r})"
    environment = {"EFFNET_BUILDER_DATA": str(tmp_path / "data")}
    given = place.start(run, "--storage", storage, "--report", data=images)
    ended = command(given, tmp_path, Fault(EPOCH, 1, remove), environment=environment)
    assert ended.code == 0, ended.said()
    assert not differences(run, undisturbed)


def test_folders_that_are_no_classes(place: Place, images: Path, tmp_path: Path) -> None:
    def refused() -> str:
        ended = command(place.start(tmp_path / "run", data=images), tmp_path)
        assert ended.code == 2, ended.said()
        assert ended.err.count("\n") == 2
        return ended.err.splitlines()[0].removeprefix(f"--data folder:{images}: ")

    (images / "train" / "wolf").mkdir()
    assert refused() == "train and test differ in their classes: wolf"
    (images / "test" / "wolf").mkdir()
    assert refused().startswith(f"no images in {images}/train/wolf; expected files .jpg")
    for part in ("train", "test"):
        for name in ("china", "digit", "wolf"):
            shutil.rmtree(images / part / name)
    assert refused() == "images: has one class, flower; there is nothing to tell it from"


def test_a_link_to_a_folder_above_is_no_endless_walk(place: Place, images: Path, tmp_path: Path) -> None:
    """Two of them would be 2 to the power of 40 folders."""
    folder = images / "train" / "china"
    (folder / "a").symlink_to(images)
    (folder / "b").symlink_to(images / "train")
    running = Command(place.start(tmp_path / "run", data=images), tmp_path)
    ended = running.end(30)
    assert ended.code == 2, ended.said()
    assert f"{folder}/" in ended.err
    assert "in which it lies itself" in ended.err


def test_what_may_not_be_read_is_named(place: Place, tmp_path: Path) -> None:
    """By the error of the system: tests may run as root, whom no file mode stops."""
    run, images = tmp_path / "run", place.images
    ended = command(place.start(run), tmp_path, Fault("effnet_builder.train.encoded:Encoded.content", 5, "EACCES"))
    assert ended.code == 2, ended.said()
    assert re.fullmatch(
        rf"{images}/t\w+/\w+/\d+\.jpg: not a readable image: Permission denied\n1 problem; nothing was trained\.\n",
        ended.err,
    )
    refuse = """DO
import os
real = os.scandir
def refusing(path="."):
    if str(path).endswith("china"):
        raise PermissionError(13, "Permission denied", path)
    return real(path)
os.scandir = refusing
"""
    ended = command(place.start(run), tmp_path, Fault("effnet_builder.cli.session:read_data", 1, refuse))
    assert ended.code == 2, ended.said()
    assert ended.err.startswith(f"--data folder:{images}: {images}/train/china: Permission denied\n")
