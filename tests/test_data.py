"""Data and input path, each against a reference of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import make_folder
from PIL import Image
from torchvision.transforms import v2

from effnet_builder import ConfigError
from effnet_builder.train.augment import InputPath, measure_normalization
from effnet_builder.train.augment_settings import Augment
from effnet_builder.train.data import Dataset, ImageSet, Storage, free_memory, in_memory, load_dataset, split
from effnet_builder.train.recipe import Normalize


def load(source: str, channels: int = 3, size: int = 32, storage: Storage = Storage.auto) -> Dataset:
    return load_dataset(source, channels=channels, size=size, progress=lambda items, *_: items, storage=storage)


def pattern(count: int = 6, size: int = 8) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return in_memory(images, torch.arange(count))


# Data


def test_digits_are_scikit_learns_and_the_split_is_fixed() -> None:
    from sklearn.datasets import load_digits

    digits = load("digits", channels=1)
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.classes == tuple("0123456789")
    assert digits.train.read().shape == (1437, 1, 8, 8)
    theirs = Counter((label, image.round().astype(int).tobytes()) for image, label in
                     zip(load_digits().images, load_digits().target, strict=True))  # fmt: skip
    ours: Counter[tuple[int, bytes]] = Counter()
    for part in (digits.train, digits.test):
        for image, label in zip(part.read(), part.labels, strict=True):
            levels = (image[0].double() / 255 * 16).round().numpy().astype(int)
            ours[int(label), levels.tobytes()] += 1
    assert ours == theirs
    assert min(Counter(digits.test.labels.tolist()).values()) >= 34  # every class is tested
    again = load("digits", channels=3)
    assert torch.equal(again.test.labels, digits.test.labels)
    assert torch.equal(again.test.read(), digits.test.read().repeat(1, 3, 1, 1))


def test_folder_reads_what_pillow_wrote(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    data = load(f"folder:{root}")
    assert (data.name, data.classes, len(data.train), len(data.test)) == ("pets", ("cat", "dog"), 4, 2)
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    first = torch.from_numpy(np.array(Image.open(root / "train" / "cat" / "0-12x12.png"))).permute(2, 0, 1)
    assert torch.equal(data.train.read()[0], first)
    assert data.train.read()[:2].float().mean() < 80 < data.train.read()[2:].float().mean()


def test_folder_with_many_sizes_becomes_squares(tmp_path: Path) -> None:
    root = make_folder(tmp_path, sizes=((40, 24), (12, 60), (10, 10)))
    assert load(f"folder:{root}", size=16).train.read().shape == (12, 3, 16, 16)
    assert load(f"folder:{root}", size=64).train.read().shape == (12, 3, 24, 24)  # the largest short side
    assert load(f"folder:{root}", size=16, channels=1).train.read().shape == (12, 1, 16, 16)


def test_wide_images_lose_their_ends(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    pixels = np.zeros((12, 36, 3), np.uint8)
    pixels[:, 12:24] = 255
    Image.fromarray(pixels).save(root / "train" / "cat" / "0-12x12.png")
    assert load(f"folder:{root}").train.read()[0].min() == 255


def test_bad_data_is_refused_with_every_file(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "bad")
    cat = root / "train" / "cat"
    (cat / "a.jpg").write_text("not an image")
    (cat / "b.png").write_bytes(b"")
    (cat / "c.png").write_bytes((cat / "0-12x12.png").read_bytes()[:200])
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(cat / "d.png")
    with pytest.raises(ConfigError) as error:
        load(f"folder:{root}")
    lines = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(cat / name) for name in ("a.jpg", "b.png", "c.png", "d.png")
    ]
    assert all("not a readable image" in line for line in lines)
    assert "more than 8 bits" in lines[3]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnits", "no such source; there are digits, folder:DIR, webdataset:DIR.PATTERN, cifar10"),
        ("folder:", "expected folder:DIR"),
        ("folder:/nowhere", "expected /nowhere/train/CLASS/IMAGE files"),
    ],
)
def test_unknown_sources(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--data {source}: {message}"):
        load(source)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    (root / "test" / "dog").rename(root / "test" / "wolf")
    with pytest.raises(ConfigError, match="train and test differ in their classes: dog, wolf"):
        load(f"folder:{root}")
    (root / "test" / "wolf").rename(root / "test" / "dog")
    for image in (root / "test" / "dog").iterdir():
        image.unlink()
    with pytest.raises(ConfigError, match="no images in .*test/dog; expected files .jpg, .jpeg, .png"):
        load(f"folder:{root}")


def test_data_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "data")
    monkeypatch.setattr("effnet_builder.train.data.free_memory", lambda: 1)
    for storage in (Storage.memory, Storage.device):
        with pytest.raises(ConfigError, match="6 images of 12 px need 0.0 GB of memory"):
            load(f"folder:{root}", storage=storage)


def test_ranks_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = free_memory()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    shared = free_memory()
    assert alone is not None
    assert shared is not None
    assert shared == pytest.approx(alone / 8, rel=0.05)


def test_free_memory_is_a_plausible_number() -> None:
    free = free_memory()
    assert free is None or 10**7 < free < 10**15


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    import struct
    import zlib

    root = make_folder(tmp_path / "data")
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    png = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    (root / "train" / "cat" / "0-12x12.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    with pytest.raises(ConfigError, match="not a readable image: Image size .* exceeds limit"):
        load(f"folder:{root}")


def test_files_that_are_no_images_are_counted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    for name in ("train/cat/a.gif", "test/dog/notes.txt"):
        (root / name).write_text("x")
    assert load(f"folder:{root}").ignored == 2


def test_split_is_seeded_and_loses_nothing() -> None:
    data = pattern(50)
    train, valid = split(data, 0.1, seed=3)
    assert (len(train), len(valid)) == (45, 5)
    assert sorted([*train.labels.tolist(), *valid.labels.tolist()]) == list(range(50))
    assert split(data, 0.1, seed=3)[1].labels.tolist() == valid.labels.tolist()
    assert split(data, 0.1, seed=4)[1].labels.tolist() != valid.labels.tolist()
    assert [len(part) for part in split(pattern(3), 0.01, seed=0)] == [2, 1]
    assert [len(part) for part in split(pattern(3), 0.99, seed=0)] == [2, 1]
    with pytest.raises(ConfigError, match="2 training images; expected at least 3"):
        split(pattern(2), 0.1, seed=0)


# Input path


def test_measured_normalization_is_that_of_all_pixels() -> None:
    data = pattern(1500, 4)
    found = measure_normalization(data)
    pixels = data.read().double() / 255
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert found.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    black = measure_normalization(in_memory(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2)))
    assert (black.mean, black.std) == ((0.0,), (1.0,))


def test_evaluation_input_equals_torchvisions_transforms() -> None:
    normalize = Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    images = pattern(5, 9).read()
    for size in (9, 24, 5):
        ours = InputPath(size, normalize, Augment(horizontal_flip=True, crop_padding=3)).evaluate(images)
        theirs = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Resize((size, size), antialias=True),
             v2.Normalize(normalize.mean, normalize.std)]
        )(images)  # fmt: skip
        assert torch.allclose(ours, theirs, atol=1e-5)
