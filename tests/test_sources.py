"""Data sources: files in the formats of the real ones, a server on this machine in place of the network."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import socket
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import make_folder
from PIL import Image
from scipy.io import savemat
from test_webdataset import make_shards
from torchvision import datasets

from effnet_builder import ConfigError
from effnet_builder.models.weights import adapt_in_channels
from effnet_builder.train.data import Dataset, ImageSet, load_dataset
from effnet_builder.train.images import with_channels
from effnet_builder.train.sources import SOURCES

TRAIN, TEST = 30, 10
Write = Callable[[Path, pytest.MonkeyPatch], None]


def load(source: str, channels: int = 3, size: int = 32) -> Dataset:
    return load_dataset(source, channels=channels, size=size, progress=lambda items, total, description: items)


def refused(source: str, **wanted: int) -> str:
    with pytest.raises(ConfigError) as error:
        load(source, **wanted)
    text = str(error.value)
    assert text.startswith(f"--data {source}: ")
    assert "\n" not in text
    return text


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only this machine answers, and the user's own data are out of sight."""
    real = socket.getaddrinfo

    def lookup(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "127.0.0.1":
            return real(host, *arguments, **options)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("EFFNET_BUILDER_DATA", str(tmp_path / "default"))


# Writers of the real formats, with random pixels. torchvision insists on the md5 of the CIFAR and SVHN files, so the
# tables of its classes get those of the files written here. It never checks the md5 of unpacked MNIST files.


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar_batch(path: Path, count: int, labels: dict[str, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    entry: dict[str, Any] = {"data": generator.integers(0, 256, (count, 3072), np.uint8), "batch_label": path.name}
    entry |= {key: [(7 * i + seed) % classes for i in range(count)] for key, classes in labels.items()}
    path.write_bytes(pickle.dumps(entry, protocol=2))


def tables_of_cifar(kind: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / kind.base_folder
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(kind, table, [[name, md5(folder / name)] for name, _ in getattr(kind, table)])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(folder / kind.meta["filename"])})


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-10-batches-py"
    for i in range(1, 6):
        cifar_batch(folder / f"data_batch_{i}", TRAIN // 5, {"labels": 10}, i)
    cifar_batch(folder / "test_batch", TEST, {"labels": 10}, 6)
    meta = {"label_names": [f"thing{i}" for i in range(10)], "num_vis": 3072, "num_cases_per_batch": 10_000}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    tables_of_cifar(datasets.CIFAR10, root, monkeypatch)


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-100-python"
    for name, count, seed in (("train", TRAIN, 1), ("test", TEST, 2)):
        cifar_batch(folder / name, count, {"coarse_labels": 20, "fine_labels": 100}, seed)
    meta = {key: [f"{key}{i}" for i in range(n)] for key, n in (("fine_label_names", 100), ("coarse_label_names", 20))}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    tables_of_cifar(datasets.CIFAR100, root, monkeypatch)


def idx(values: np.ndarray) -> bytes:
    """The format of Y. LeCun's page: 0, 0, type 8, dimensions; each size as four bytes, large end first; the bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def write_mnist(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, packed: bool = False) -> None:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for seed, (part, count) in enumerate((("train", TRAIN), ("t10k", TEST))):
        images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) * 7 + seed).astype(np.uint8) % 10
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx(values)
            target = folder / f"{part}-{kind}-ubyte"
            target.with_suffix(".gz" if packed else "").write_bytes(gzip.compress(data) if packed else data)
    if packed:
        kind_of = getattr(datasets, name)
        monkeypatch.setattr(kind_of, "resources", [(file, md5(folder / file)) for file, _ in kind_of.resources])


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real SVHN: X (32, 32, 3, N) and y (N, 1), where 10 stands for the digit 0."""
    root.mkdir(parents=True, exist_ok=True)
    table = {}
    for seed, (part, count) in enumerate((("train", TRAIN), ("test", TEST))):
        file = root / f"{part}_32x32.mat"
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3, count), np.uint8)
        savemat(file, {"X": pixels, "y": (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]})
        table[part] = [datasets.SVHN.split_list[part][0], file.name, md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", table)


PUBLISHED: dict[str, tuple[Write, int]] = {
    "cifar10": (write_cifar10, 3),
    "cifar100": (write_cifar100, 3),
    "mnist": (partial(write_mnist, "MNIST"), 1),
    "fashion-mnist": (partial(write_mnist, "FashionMNIST"), 1),
    "svhn": (write_svhn, 3),
}


def theirs(source: str, root: Path, train: bool) -> Any:
    name = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}.get(source)
    if name is None:
        return datasets.SVHN(root, split="train" if train else "test")
    return getattr(datasets, name)(root, train=train)


def as_items(data: ImageSet) -> list[tuple[Any, int]]:
    return [
        (image.permute(1, 2, 0).squeeze(2).numpy().tolist(), int(label))
        for image, label in zip(data.read(), data.labels, strict=True)
    ]


@pytest.mark.parametrize("source", PUBLISHED)
def test_published_sets_equal_torchvision_item_by_item(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, channels = PUBLISHED[source]
    write(tmp_path, monkeypatch)
    before = everything(tmp_path)
    data = load(f"{source}:{tmp_path}", channels)
    assert (data.name, data.notes, len(data.train), len(data.test)) == (source, (), TRAIN, TEST)
    for train, ours in ((True, data.train), (False, data.test)):
        assert (ours.read().dtype, ours.labels.dtype) == (torch.uint8, torch.int64)
        assert ours.read().is_contiguous()
        items = theirs(source, tmp_path, train)
        assert as_items(ours) == [(np.asarray(image).tolist(), label) for image, label in items]
    names = tuple("0123456789") if source == "svhn" else tuple(theirs(source, tmp_path, True).classes)
    assert data.classes == names
    assert everything(tmp_path) == before
    monkeypatch.setenv("EFFNET_BUILDER_DATA", str(tmp_path))
    assert torch.equal(load(source, channels).test.read(), data.test.read())


def test_published_pixels_are_those_that_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for write, _ in PUBLISHED.values():
        write(tmp_path, monkeypatch)
    batch = pickle.loads((tmp_path / "cifar-10-batches-py" / "data_batch_2").read_bytes())
    cifar = load(f"cifar10:{tmp_path}")
    assert np.array_equal(cifar.train.read()[6:12].numpy(), batch["data"].reshape(6, 3, 32, 32))
    assert cifar.train.labels[6:12].tolist() == batch["labels"]
    fine = pickle.loads((tmp_path / "cifar-100-python" / "test").read_bytes())["fine_labels"]
    assert load(f"cifar100:{tmp_path}").test.labels.tolist() == fine
    raw = (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert load(f"mnist:{tmp_path}", channels=1).test.read().numpy().tobytes() == raw
    house = load(f"svhn:{tmp_path}").test
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3, TEST), np.uint8)
    assert np.array_equal(house.read()[4].numpy(), pixels[:, :, :, 4].transpose(2, 0, 1))
    assert house.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


# Without the files


@pytest.mark.parametrize(
    ("source", "folder", "files"),
    [
        ("cifar10", "", ["cifar-10-python.tar.gz"]),
        ("cifar100", "", ["cifar-100-python.tar.gz"]),
        ("mnist", "MNIST/raw", [name for name, _ in datasets.MNIST.resources]),
        ("fashion-mnist", "FashionMNIST/raw", [name for name, _ in datasets.FashionMNIST.resources]),
        ("svhn", "", ["train_32x32.mat", "test_32x32.mat"]),
    ],
)
def test_without_network_the_sentence_says_what_to_do(
    source: str, folder: str, files: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = refused(f"{source}:{tmp_path}")
    assert f"{files[0]}: [Errno -2] Name or service not known; by hand, put {', '.join(files)} into " in text
    assert text.endswith(f"into {tmp_path / folder}")
    assert "http" in text
    assert everything(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_a_half_file_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    half = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    half.write_bytes(half.read_bytes()[:1000])
    before = everything(tmp_path)
    assert f"cifar-10-batches-py/data_batch_3 is not in {tmp_path}, or not whole" in refused(f"cifar10:{tmp_path}")
    assert everything(tmp_path) == before
    write_mnist("MNIST", tmp_path, monkeypatch)
    raw = tmp_path / "MNIST" / "raw"
    image = raw / "train-images-idx3-ubyte"
    for content in (image.read_bytes()[:5000], b"", b"\0\0\x0a\3" * 8):
        image.write_bytes(content)
        assert f"the files in {raw} cannot be read (" in refused(f"mnist:{tmp_path}")


def test_labels_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist("MNIST", tmp_path, monkeypatch)
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(TRAIN - 1, np.uint8)))
    assert "(30 images with 29 labels)" in refused(f"mnist:{tmp_path}")
    labels.write_bytes(idx(np.full(TRAIN, 10, np.uint8)))
    assert "(labels from 10 to 10 for 10 classes)" in refused(f"mnist:{tmp_path}")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refused(f"svhn:{tmp_path / 'file' / 'data'}")

    def read_only(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    write_svhn(tmp_path, monkeypatch)
    # Tests may run as root, whom no file mode stops.
    monkeypatch.setattr("effnet_builder.train.download.TemporaryDirectory", read_only)
    assert len(load(f"svhn:{tmp_path}").train) == TRAIN  # what is there is read without writing
    (tmp_path / "test_32x32.mat").unlink()
    text = refused(f"svhn:{tmp_path}")
    assert f"{tmp_path}: Permission denied; by hand, put test_32x32.mat into {tmp_path}" in text
    assert "there is no home folder ~nosuchuser" in refused("svhn:~nosuchuser/data")


# With a network


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder that is served, its address, and what was asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{serving.server_port}/", asked
        serving.shutdown()


def publish_cifar10(root: Path, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data in `root` as an archive in the served folder."""
    write_cifar10(root, monkeypatch)
    archive = folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "url", url + archive.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    return archive


def test_a_download_is_whole_and_happens_once(
    tmp_path: Path,
    server: tuple[Path, str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, url, asked = server
    archive = publish_cifar10(tmp_path / "origin", folder, url, monkeypatch)
    shown: list[tuple[int, str]] = []

    def progress(items: Iterable[object], total: int, description: str) -> Iterable[object]:
        shown.append((total, description))
        return items

    root = tmp_path / "new" / "data"
    data = load_dataset(f"cifar10:{root}", channels=3, size=32, progress=progress)
    assert data.notes == (f"cifar10 is now in {root}",)
    assert torch.equal(data.train.read(), load(f"cifar10:{tmp_path / 'origin'}").train.read())
    assert everything(root) == everything(tmp_path / "origin")
    assert os.listdir(root) == ["cifar-10-batches-py"]
    assert shown == [(-(-archive.stat().st_size // 2**18), "downloading cifar-10-python.tar.gz")]
    assert load(f"cifar10:{root}").notes == ()
    assert asked == ["/cifar-10-python.tar.gz"]
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_is_replaced(
    tmp_path: Path, server: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url, _ = server
    publish_cifar10(tmp_path / "origin", folder, url, monkeypatch)
    write_cifar10(tmp_path / "own", monkeypatch)
    (tmp_path / "own" / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half")
    ours, whole = (load(f"cifar10:{tmp_path / name}") for name in ("own", "origin"))
    assert torch.equal(ours.train.read(), whole.train.read())


def test_a_wrong_checksum_leaves_nothing(
    tmp_path: Path, server: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url, _ = server
    archive = publish_cifar10(tmp_path / "origin", folder, url, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-100])
    size = f"{archive.stat().st_size:,}"
    text = refused(f"cifar10:{tmp_path / 'new'}")
    assert f"{archive.name}: {size} bytes that do not have the md5 {datasets.CIFAR10.tgz_md5}" in text
    archive.unlink()
    assert "HTTP Error 404: File not found" in refused(f"cifar10:{tmp_path / 'new'}")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_interrupted_download_leaves_nothing(
    tmp_path: Path, server: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url, _ = server
    publish_cifar10(tmp_path / "origin", folder, url, monkeypatch)

    def interrupted(items: Iterable[object], total: int, description: str) -> Iterator[object]:
        yield next(iter(items))
        raise KeyboardInterrupt

    root = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt):
        load_dataset(f"cifar10:{root}", channels=3, size=32, progress=interrupted)
    assert list(root.iterdir()) == []


def test_the_second_mirror_is_asked_and_only_for_what_is_missing(
    tmp_path: Path, server: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url, asked = server
    write_mnist("MNIST", folder, monkeypatch, packed=True)
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://nowhere.invalid/", f"{url}MNIST/raw/"])
    root = tmp_path / "new"
    write_mnist("MNIST", root, monkeypatch)
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    data = load(f"mnist:{root}", channels=1)
    assert asked == ["/MNIST/raw/t10k-labels-idx1-ubyte.gz"]
    assert data.test.labels.tolist() == [(7 * i + 1) % 10 for i in range(TEST)]


def test_archives_put_there_by_hand_need_no_network(
    tmp_path: Path, server: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url, asked = server
    publish_cifar10(tmp_path / "origin", folder, url, monkeypatch)
    assert len(load(f"cifar10:{folder}").test) == TEST
    write_mnist("FashionMNIST", folder, monkeypatch, packed=True)
    assert len(load(f"fashion-mnist:{folder}").test) == TEST
    assert asked == []
    assert everything(folder)[-1] == "cifar-10-python.tar.gz"  # the archive is the user's, and stays


def test_downloads_at_once_all_end_whole(
    tmp_path: Path, server: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url, _ = server
    publish_cifar10(tmp_path / "origin", folder, url, monkeypatch)
    root = tmp_path / "new"
    barrier = threading.Barrier(4)

    def together(items: Iterable[object], total: int, description: str) -> Iterable[object]:
        barrier.wait(20)  # all have found that the files are not there, and are downloading
        return items

    def one(_: int) -> Dataset:
        return load_dataset(f"cifar10:{root}", channels=3, size=32, progress=together)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(4)))
    assert all(torch.equal(data.train.read(), found[0].train.read()) for data in found)
    assert everything(root) == everything(tmp_path / "origin")


# Channels


def test_luma_is_pillows() -> None:
    levels = torch.tensor([*range(0, 256, 15), 1, 128, 254])
    colours = torch.cartesian_prod(levels, levels, levels).to(torch.uint8)
    ours = with_channels(colours[:, :, None, None], 1)
    image = Image.fromarray(colours.numpy()[None], "RGB").convert("L")
    assert torch.equal(ours[:, 0, 0, 0], torch.from_numpy(np.array(image)[0]))


@pytest.mark.parametrize(
    ("given", "wanted", "order"),
    [(1, 1, [0]), (1, 3, [0, 0, 0]), (1, 4, [0] * 4), (3, 3, [0, 1, 2]), (3, 2, [0, 1]), (3, 5, [0, 1, 2, 0, 1])],
)
def test_other_channels_repeat_those_of_the_image(given: int, wanted: int, order: list[int]) -> None:
    images = torch.randint(0, 256, (5, given, 4, 4), dtype=torch.uint8)
    ours = with_channels(images, wanted)
    assert torch.equal(ours, images[:, order])
    assert ours.is_contiguous()
    if wanted > 1:  # weights are repeated in the same order
        weight = torch.rand(8, given, 1, 1)
        torch.testing.assert_close(adapt_in_channels(weight, wanted) * wanted / given, weight[:, order])


def test_every_source_gives_any_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for write, _ in PUBLISHED.values():
        write(tmp_path, monkeypatch)
    make_folder(tmp_path / "pets")
    make_shards(tmp_path / "shards")
    tails = {"digits": "", "fake": ":40x4", "folder": f":{tmp_path / 'pets'}", "webdataset": f":{tmp_path / 'shards'}"}
    for name in SOURCES:
        for channels in (1, 2, 3, 6):
            data = load(name + tails.get(name, f":{tmp_path}"), channels)
            assert data.train.read().shape[1] == data.test.read().shape[1] == channels
            assert data.train.read().dtype == torch.uint8
            assert int(data.train.labels.max()) < len(data.classes)


# Fake


def test_fake_is_balanced_and_a_function_of_index_and_class() -> None:
    data = load("fake")
    assert (len(data.train), len(data.test), len(data.classes)) == (512, 128, 10)
    assert data.train.read().shape[1:] == (3, 32, 32)
    small, large = load("fake:100x10"), load("fake:3000x10")
    for other in (small, large, load("fake")):
        assert torch.equal(other.train.read()[:100], data.train.read()[:100])
        assert torch.equal(other.train.labels[:100], data.train.labels[:100])
    everyone = torch.cat([small.train.read(), small.test.read()])
    assert torch.equal(everyone, data.train.read()[:125])  # the test set goes on where the training set ends
    assert len(torch.unique(data.train.read().flatten(1), dim=0)) == 512
    more = load("fake:512x16").train
    same = more.labels == data.train.labels
    assert torch.equal(more.read()[same], data.train.read()[same])
    for part in (data.train, data.test, load("fake:12x10").test):
        counts = torch.bincount(part.labels, minlength=10)
        assert int(counts.max() - counts.min()) <= 1
        assert int(counts.min()) >= 1


def test_fake_can_be_learnt() -> None:
    """Ridge regression on the averages of 8 x 8 px, in closed form; with shuffled labels it is no better than chance."""
    data = load("fake:400x10")

    def features(part: ImageSet) -> torch.Tensor:
        x = torch.nn.functional.avg_pool2d(part.read().double() / 255 - 0.5, 8).flatten(1)
        return torch.cat([x, torch.ones(len(x), 1)], 1)

    def accuracy(labels: torch.Tensor) -> float:
        x, y = features(data.train), torch.nn.functional.one_hot(labels, 10).double()
        weight = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]), x.T @ y)
        return float(((features(data.test) @ weight).argmax(1) == data.test.labels).double().mean())

    assert accuracy(data.train.labels) > 0.95
    shuffled = data.train.labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert accuracy(shuffled) < 0.4


@pytest.mark.parametrize("argument", ["9x10", "2x2", "10x1", "100001x10", "5000x1001", "x", "10", "-5x2", "9" * 5000])
def test_fake_is_bounded(argument: str) -> None:
    assert "expected fake:COUNTxCLASSES with 2 to 1,000 classes" in refused(f"fake:{argument}")


# Folders


@pytest.mark.parametrize("second", ["val", "valid", "validation"])
def test_imagefolder_style(second: str, tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    expected = load(f"folder:{root}")
    (root / "test").rename(root / second)
    data = load(f"folder:{root}")
    assert torch.equal(data.test.read(), expected.test.read())
    assert torch.equal(data.test.labels, expected.test.labels)
    assert data.notes == (f"{root / second} is the test set: there is no {root / 'test'}",)
    assert (expected.notes, data.ignored) == ((), 0)
    (root / second / "dog").rename(root / second / "wolf")
    assert f"train and {second} differ in their classes: dog, wolf" in refused(f"folder:{root}")


def test_a_test_folder_goes_before_val(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    bright = make_folder(tmp_path / "other", sizes=((12, 12), (10, 10)))
    (bright / "test").rename(root / "val")
    data = load(f"folder:{root}")
    assert (len(data.test), data.notes) == (2, (f"{root / 'val'} is not read",))


# Refusals


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cifar-10", "did you mean 'cifar10'?"),
        ("fashion_mnist", "did you mean 'fashion-mnist'?"),
        ("imagefolder:x", "did you mean 'folder'?"),
        ("imagenet", "no such source; there are digits, folder:DIR, webdataset:DIR|PATTERN, cifar10[:DIR], "),
        ("", "mnist[:DIR], svhn[:DIR], fake[:COUNTxCLASSES]"),
        ("folder", "expected folder:DIR"),
        ("folder:", "expected folder:DIR"),
        ("digits:8x8", "expected digits"),
        ("digits:", "expected digits"),
        ("mnist:", "expected mnist[:DIR]"),
        ("fake:", "expected fake[:COUNTxCLASSES]"),
    ],
)
def test_mistakes_name_what_there_is(source: str, message: str) -> None:
    assert message in refused(source)


def test_more_channels_than_a_recipe_can_normalize() -> None:
    assert load("digits", channels=1000).train.read().shape[1] == 1000
    assert "the network takes 1,001 channels; images can have 1,000 at most" in refused("digits", channels=1001)


def test_data_larger_than_memory_are_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("effnet_builder.train.data.free_memory", lambda: 1)
    images = {"cifar10": "60,000 images of 32 px need 0.4 GB", "mnist": "70,000 images of 28 px need 0.3 GB"}
    images |= {"svhn": "99,289 images of 32 px need 0.6 GB", "digits": "1,797 images of 8 px"}
    images |= {"fake": "640 images of 32 px"}
    for source, message in images.items():
        assert message in refused(source)
    assert "need 1.2 GB of memory, 0.0 are free" in refused("cifar10", channels=10)
    assert "need 0.4 GB" in refused("cifar10", channels=1)  # red, green and blue are read, whatever is wanted


# Files that are not what they are called


def test_the_old_layout_of_mnist_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist("MNIST", tmp_path, monkeypatch)
    expected = load(f"mnist:{tmp_path}", channels=1).train.read()
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save(([1, 2], [3]), tmp_path / "MNIST" / "processed" / name)
    assert torch.equal(load(f"mnist:{tmp_path}", channels=1).train.read(), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file of bytes with 3 dimensions"),
        (idx(np.zeros(TRAIN, np.uint8)), "is not an idx file of bytes with 3 dimensions"),
        (b"\0\0\x0d" + idx(np.zeros((TRAIN, 2, 2), np.uint8))[3:], "is not an idx file of bytes with 3 dimensions"),
        (idx(np.zeros((TRAIN, 2, 2), np.uint8)) + b"x", "has 137 bytes; its header says 136"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"x", "has 17 bytes; its header says 79,228,162,458,924,105,385,300,197,391"),
        (idx(np.zeros((TRAIN, 0, 2), np.uint8)), "is empty: 30 x 0 x 2"),
    ],
)
def test_idx_files_that_lie_are_one_line_with_their_name(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist("MNIST", tmp_path, monkeypatch)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    assert f"train-images-idx3-ubyte {message}" in refused(f"mnist:{tmp_path}")


def test_images_of_any_size_in_idx_files_are_those_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist("MNIST", tmp_path, monkeypatch)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        images = np.random.default_rng(9).integers(0, 256, (count, 28, 14), np.uint8)
        (tmp_path / "MNIST" / "raw" / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
    data = load(f"mnist:{tmp_path}", channels=1)
    for train, part in ((True, data.train), (False, data.test)):
        expected = datasets.MNIST(tmp_path, train=train)
        assert torch.equal(part.read()[:, 0], expected.data)
        assert torch.equal(part.labels, expected.targets)


def test_memory_is_checked_against_the_headers_of_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist("MNIST", tmp_path, monkeypatch)
    monkeypatch.setattr("effnet_builder.train.data.free_memory", lambda: 1_000_000)
    assert len(load(f"mnist:{tmp_path}").train) == TRAIN
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    with images.open("wb") as file:  # a file with holes: its pixels are never read
        file.write(bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (TRAIN, 4000, 4000)))
        file.truncate(16 + TRAIN * 4000 * 4000)
    assert "40 images of 4,000 px need 2.9 GB of memory, 0.0 are free" in refused(f"mnist:{tmp_path}")


class _Touch:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, ("touch canary",)


def test_a_pickle_of_cifar_names_arrays_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps({"data": _Touch()}))
    tables_of_cifar(datasets.CIFAR10, tmp_path, monkeypatch)  # even with the right sum
    assert "it names posix.system" in refused(f"cifar10:{tmp_path}")
    assert not Path("canary").exists()


def test_bytes_that_were_swapped_after_the_check_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path, monkeypatch)
    write_svhn(tmp_path, monkeypatch)

    def swap(*_: object) -> bool:
        (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps({"data": _Touch()}))
        (tmp_path / "train_32x32.mat").write_bytes(b"other")
        return False

    monkeypatch.setattr("effnet_builder.train.published.fetch_missing", swap)
    assert "data_batch_1 does not have the md5" in refused(f"cifar10:{tmp_path}")
    assert "train_32x32.mat does not have the md5" in refused(f"svhn:{tmp_path}")


def test_a_pipe_in_the_place_of_a_data_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for write, _ in PUBLISHED.values():
        write(tmp_path, monkeypatch)
    for source, name in (("cifar10", "cifar-10-batches-py/test_batch"), ("svhn", "test_32x32.mat"),
                         ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte")):  # fmt: skip
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        assert "or not whole" in refused(f"{source}:{tmp_path}")
