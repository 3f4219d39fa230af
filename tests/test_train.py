"""Data, input path, loop and run directory, each against a reference of its own."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn
from torchvision.transforms import v2

from effnet_builder import ConfigError
from effnet_builder.train.augment import InputPath, measure, random_crop
from effnet_builder.train.data import Dataset, ImageSet, Storage, free_memory, in_memory, load_dataset, split
from effnet_builder.train.engine import Diverged, choose_device, epoch_batches, evaluate, fit
from effnet_builder.train.loggers import ConsoleLogger, CsvLogger, EpochMetrics
from effnet_builder.train.recipe import Augment, Normalize, Recipe, load_recipe
from effnet_builder.train.run import claim, claim_next, publishing

PLAIN = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def load(source: str, channels: int = 3, size: int = 32, storage: Storage = Storage.auto) -> Dataset:
    return load_dataset(source, channels=channels, size=size, progress=lambda items, *_: items, storage=storage)


def make_folder(root: Path, sizes: tuple[tuple[int, int], ...] = ((12, 12),), mode: str = "RGB") -> Path:
    """Two classes, in train two images of each size and class, in test one; dark cats, bright dogs."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 1)):
        for level, name in ((40, "cat"), (200, "dog")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                for width, height in sizes:
                    shape = (height, width, 3) if mode == "RGB" else (height, width)
                    pixels = generator.integers(level - 30, level + 30, shape).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i}-{width}x{height}.png")
    return root


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
    found = measure(data)
    pixels = data.read().double() / 255
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert found.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    black = measure(in_memory(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2)))
    assert (black.mean, black.std) == ((0.0,), (1.0,))


def test_evaluation_input_equals_torchvisions_transforms() -> None:
    normalize = Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    images = pattern(5, 9).read()
    for size in (9, 24, 5):
        ours = InputPath(size, normalize, Augment(horizontal_flip=True, crop_padding=3))(images)
        theirs = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Resize((size, size), antialias=True),
             v2.Normalize(normalize.mean, normalize.std)]
        )(images)  # fmt: skip
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_each_image_is_flipped_or_not_on_its_own() -> None:
    images = pattern(200).read()
    augment = InputPath(8, PLAIN, Augment(horizontal_flip=True))
    plain = InputPath(8, PLAIN, Augment())(images)
    found = augment(images, torch.Generator().manual_seed(0))
    flipped = [not torch.equal(a, b) for a, b in zip(found, plain, strict=True)]
    assert 70 < sum(flipped) < 130
    for i, flip in enumerate(flipped):
        assert torch.equal(found[i], plain[i].flip(2) if flip else plain[i])


def test_each_crop_is_a_window_of_the_padded_image() -> None:
    x = pattern(400).read().float() + 1
    found = random_crop(x, 2, torch.Generator().manual_seed(0))
    offsets = Counter()
    for image, crop in zip(x, found, strict=True):
        padded = nn.functional.pad(image, (2, 2, 2, 2))
        windows = [(i, j) for i in range(5) for j in range(5) if torch.equal(padded[:, i : i + 8, j : j + 8], crop)]
        assert len(windows) == 1
        offsets[windows[0]] += 1
    assert len(offsets) == 25  # every offset is drawn
    assert max(offsets.values()) < 40


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        batches = epoch_batches(recipe(seed=seed, batch_size=16), epoch, 50)
        assert [len(batch) for batch in batches] == [16, 16, 16, 2]
        orders.append(torch.cat(batches).tolist())
        assert sorted(orders[-1]) == list(range(50))
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def test_a_last_batch_of_one_is_left_out_in_training() -> None:
    assert sum(map(len, epoch_batches(recipe(batch_size=16), 0, 33))) == 32


# The loop


def recipe(**changes: object) -> Recipe:
    return load_recipe("digits", {"epochs": 2, "batch_size": 4, "augment.crop_padding": 0} | changes)


def tiny_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 6))


def test_fit_is_torchs_sgd_on_the_same_batches() -> None:
    """The loop written out with torch's own optimizer and scheduler, on a module that is no Network."""
    plan = recipe(**{"schedule.step_size": 1, "optimizer.nesterov": False})
    data, inputs = pattern(18), InputPath(8, PLAIN, plan.augment)
    data = in_memory(data.read(), data.labels % 6)
    ours, theirs = tiny_model(), tiny_model()
    history = fit(ours, data, data, plan, inputs, []).history
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    for epoch in range(2):
        total = 0.0
        for index in epoch_batches(plan, epoch, 18):
            images, labels = inputs(data.read(index)), data.labels[index]
            loss = nn.functional.cross_entropy(theirs(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(labels)
        scheduler.step()
        assert history[epoch].train_loss == pytest.approx(total / 18)
        assert history[epoch].lr == pytest.approx([0.05, 0.005][epoch])
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-6)
    assert history[-1].valid_loss == pytest.approx(evaluate(theirs, data, 5, inputs).loss, rel=1e-5)


def test_clip_smoothing_decay_and_average_in_the_loop() -> None:
    """Written out once more, with what a recipe may add to the loop."""
    plan = recipe(
        optimizer={"type": "adamw", "lr": 0.01, "weight_decay": 0.1, "no_decay": ["bias"]}, schedule={"type": "cosine", "warmup": "3steps"}, clip={"max_norm": 0.5}, label_smoothing=0.2, ema={"horizon": "4steps"}
    )  # fmt: skip
    data, inputs = pattern(18), InputPath(8, PLAIN, plan.augment)
    data = in_memory(data.read(), data.labels % 6)
    ours, theirs = tiny_model(), tiny_model()
    fitted = fit(ours, data, data, plan, inputs, [])
    weights, biases = ([p for n, p in theirs.named_parameters() if n.endswith(kind)] for kind in ("weight", "bias"))
    groups = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
    average = [parameter.detach().clone() for parameter in theirs.parameters()]
    for step, index in enumerate([*epoch_batches(plan, 0, 18), *epoch_batches(plan, 1, 18)]):
        images, labels = inputs(data.read(index)), data.labels[index]
        share = (step + 1) / 4 if step < 3 else (1 + math.cos(math.pi * (step - 3) / 7)) / 2
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * share
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(images), labels, label_smoothing=0.2).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        decay = min(1 - 1 / 4, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, theirs.parameters(), strict=True)]
    for a, b, mean, kept in zip(
        ours.parameters(), theirs.parameters(), average, fitted.model.parameters(), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)
        assert torch.allclose(kept, mean, rtol=1e-4, atol=1e-6)
    assert fitted.history[-1].ema_accuracy == evaluate(fitted.model, data, 4, inputs).accuracy


def test_evaluate_counts_every_image_once_whatever_the_batch() -> None:
    data, model, inputs = pattern(7), tiny_model(), InputPath(8, PLAIN, Augment())
    data = in_memory(data.read(), data.labels % 6)
    logits = model(inputs(data.read()))
    expected = float(nn.functional.cross_entropy(logits, data.labels).detach())
    right = float((logits.argmax(1) == data.labels).double().mean())
    for batch_size in (1, 3, 7, 100):
        score = evaluate(model, data, batch_size, inputs)
        assert (score.loss, score.accuracy) == (pytest.approx(expected, rel=1e-5), right)


def test_a_network_learns_one_batch_by_heart() -> None:
    data = pattern(6)
    history = fit(
        tiny_model(), data, data, recipe(epochs=60, **{"schedule.step_size": 1000}), InputPath(8, PLAIN, Augment()), []
    ).history
    assert history[0].train_accuracy < 0.7
    assert history[-1].valid_accuracy == 1


def test_the_same_seed_gives_the_same_weights() -> None:
    results = []
    for _ in range(2):
        model = tiny_model()
        data = pattern(9)
        data = in_memory(data.read(), data.labels % 6)
        fit(model, data, data, recipe(), InputPath(8, PLAIN, Augment(crop_padding=2)), [])
        results.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(*results)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(Diverged, match=r"training loss of epoch 1 is (nan|inf); try a lower lr than 100"):
        fit(tiny_model(), pattern(), pattern(), recipe(epochs=9, **{"optimizer.lr": 100.0, "batch_size": 2}),
            InputPath(8, Normalize(mean=(0.0,) * 3, std=(1e-30,) * 3), Augment()), [])  # fmt: skip


def test_metrics_are_on_disk_after_each_epoch(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "metrics.csv")
    history = fit(tiny_model(), pattern(), pattern(), recipe(), InputPath(8, PLAIN, Augment()), [logger]).history
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch", "lr", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "ema_loss", "ema_accuracy",
        "seconds",
    ]  # fmt: skip
    read = [
        EpochMetrics(int(row.pop("epoch")), **{key: float(value) if value else None for key, value in row.items()})
        for row in rows
    ]
    assert read == history


def test_the_bar_stays_on_one_line_of_a_terminal_and_is_nowhere_else() -> None:
    metrics = EpochMetrics(1, 0.1, 0.5, 0.6, 0.7, 0.8, None, None, 1.0)
    for terminal in (True, False):
        screen, lines = io.StringIO(), []
        logger = ConsoleLogger(
            Console(file=screen, force_terminal=terminal, width=60, color_system=None), 2, lines.append
        )
        for step in range(1, 6):
            logger.step(step, 5)
            logger.bar.refresh()
        drawn = screen.getvalue()
        logger.epoch(metrics)
        logger.close()
        assert ("5/5" in drawn) == terminal
        assert "\n" not in drawn
        printed = screen.getvalue() if terminal else "\n".join(lines)
        assert (
            "epoch 1/2  lr 0.1       train loss 0.5000, accuracy 60.00%  valid loss 0.7000, accuracy 80.00%  1.0 s"
            in printed
        )


# The run directory


def test_a_run_directory_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "first"
    folder = claim(target)
    with publishing(folder, target):
        (folder / "file").write_text("x")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["file"]
    with pytest.raises(FileExistsError, match="exists already, and is not overwritten"):
        claim(target)
    second = tmp_path / "runs" / "second"
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):
        folder = claim(second)
        with pytest.raises(error), publishing(folder, second):
            (folder / "file").write_text("x")
            raise error
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["first"]


def test_two_runs_never_share_a_name(tmp_path: Path) -> None:
    found = [claim_next(tmp_path, "run") for _ in range(3)]
    assert [target.name for target, _ in found] == ["run-1", "run-2", "run-3"]
    assert len({folder for _, folder in found}) == 3
    with pytest.raises(FileExistsError, match="another run is at work on it, or was killed"):
        claim(tmp_path / "run-2")


def test_a_file_in_the_place_of_the_runs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("x")
    with pytest.raises(FileExistsError):
        claim_next(tmp_path / "runs", "run")


def test_a_finished_run_is_kept_where_its_place_was_taken(tmp_path: Path) -> None:
    target, folder = claim_next(tmp_path, "run")
    with pytest.raises(OSError, match=r"the finished run lies in .*\.run-1\.unfinished"), publishing(folder, target):
        (folder / "weights").write_text("precious")
        (target / "somebody's").mkdir(parents=True)
    assert (folder / "weights").read_text() == "precious"


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in {"cpu", "cuda"}
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            choose_device("cuda")
