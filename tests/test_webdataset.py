"""Tar files of samples: what is in them comes out, and what is no shard is refused with a sentence."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effnet_builder import ConfigError
from effnet_builder.train.data import Dataset, Storage, load_dataset
from effnet_builder.train.webdataset import expand

Member = tuple[str, bytes]


def load(source: str, storage: Storage = Storage.auto) -> Dataset:
    return load_dataset(f"webdataset:{source}", channels=3, size=32, progress=lambda items, *_: items, storage=storage)


def refused(source: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(source)
    text = str(error.value)
    assert text.startswith(f"--data webdataset:{source}: ")
    assert "\n" not in text
    return text


def pixels_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_of(number)).save(file, "png")
    return file.getvalue()


def write_tar(path: Path, members: Sequence[Member], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(numbers: Sequence[int], classes: Sequence[str] = ("0", "1")) -> list[Member]:
    pairs = [
        [(f"{number:06}.png", png(number)), (f"{number:06}.cls", classes[number % len(classes)].encode())]
        for number in numbers
    ]
    return [member for pair in pairs for member in pair]


def make_shards(root: Path, classes: Sequence[str] = ("0", "1")) -> Path:
    """Six samples in two shards to train, four in one to test."""
    write_tar(root / "train-0.tar", samples(range(3), classes))
    write_tar(root / "train-1.tar", samples(range(3, 6), classes))
    write_tar(root / "test-0.tar", samples(range(6, 10), classes))
    return root


@pytest.mark.parametrize("storage", [Storage.memory, Storage.cache, Storage.stream])
def test_what_was_packed_comes_out(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_BUILDER_DATA", str(tmp_path / "own"))
    data = load(str(make_shards(tmp_path / "pets")), storage)
    assert (data.name, data.classes, data.storage, data.ignored) == ("pets", ("0", "1"), storage, 0)
    for part, numbers in ((data.train, range(6)), (data.test, range(6, 10))):
        expected = np.stack([pixels_of(number).transpose(2, 0, 1) for number in numbers])
        assert np.array_equal(part.read().numpy(), expected)
        assert part.labels.tolist() == [number % 2 for number in numbers]


def test_names_of_classes(tmp_path: Path) -> None:
    names = load(str(make_shards(tmp_path / "a", ("dog", "cat\n"))))
    assert (names.classes, names.train.labels.tolist()) == (("cat", "dog"), [1, 0] * 3)
    root = make_shards(tmp_path / "b")
    (root / "classes.txt").write_text("wolf\nfox\n\n")
    listed = load(str(root))
    assert (listed.classes, listed.train.labels.tolist()) == (("wolf", "fox"), [0, 1] * 3)
    root = make_shards(tmp_path / "c", ("fox", "wolf"))
    (root / "classes.txt").write_text("wolf\nfox\nbear")
    assert load(str(root)).train.labels.tolist() == [1, 0] * 3
    (root / "classes.txt").write_text("wolf\nbear")
    assert "class 'fox' is not one of the 2 of" in refused(str(root))
    (root / "classes.txt").write_text("wolf\nwolf")
    assert "has a name twice" in refused(str(root))
    (root / "classes.txt").write_bytes(b"\xff")
    assert "classes.txt cannot be read" in refused(str(root))
    assert "some .cls hold numbers, others names, such as 'dog'" in refused(
        str(make_shards(tmp_path / "d", ("dog", "7")))
    )
    assert load(str(make_shards(tmp_path / "e", ("2", "5")))).classes == tuple("012345")
    assert "class 999,999,999 without a classes.txt" in refused(str(make_shards(tmp_path / "f", ("9" * 9,))))
    assert "test has images of classes that train has not: fox" in refused(
        str(write_tar(make_shards(tmp_path / "g", ("cat",)) / "test-1.tar", samples([1], ("fox",))).parent)
    )


def test_patterns_choose_the_training_shards(tmp_path: Path) -> None:
    root = make_shards(tmp_path)
    write_tar(root / "extra.tar", samples([11]))
    assert len(load(str(root)).train) == 6
    assert len(load(f"{root}/train-{{0..1}}.tar").train) == 6
    assert load(f"{root}/train-{{1..0}}.tar").train.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert len(load(f"{root}/{{train-1,extra}}.tar").train) == 4
    assert len(load(f"{root}/train-[0].tar").train) == 3
    assert "there is no file" in refused(f"{root}/train-{{0..2}}.tar")
    assert "there is no file" in refused(f"{root}/nothing*.tar")
    assert "expected at most 100,000 shards" in refused(f"{root}/{{0..999999999}}.tar")
    assert "expected at most 100,000 shards" in refused(f"{root}/{{0..999}}{{0..999}}.tar")
    assert "expected files on this machine" in refused("https://somewhere/train.tar")
    assert "expected files on this machine" in refused("pipe:cat train.tar")
    (root / "test-0.tar").rename(root / "val-0.tar")
    assert load(str(root)).notes == (f"{root}/val*.tar are the test set: there are no {root}/test*.tar",)
    (root / "val-0.tar").unlink()
    assert f"expected test shards {root}/test*.tar, or val*.tar" in refused(str(root))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to compare with")
@given(
    st.lists(
        st.one_of(
            st.from_regex("[a-z.-]{1,3}", fullmatch=True),
            st.builds("{{{}..{}}}".format, *[st.sampled_from(["0", "1", "9", "10", "08", "003", "12"])] * 2),
            st.lists(st.from_regex("[a-z]{0,2}", fullmatch=True), min_size=2, max_size=3).map(
                lambda words: f"{{{','.join(words)}}}"
            ),
        ),
        min_size=1,
        max_size=4,
    ).map("".join)
)
def test_braces_are_bashs(pattern: str) -> None:
    # Quoted outside of its braces the text stands for itself; printf shows empty words too.
    script = f"for word in x{pattern}; do printf '%s\\n' \"$word\"; done"
    theirs = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    assert expand(f"x{pattern}") == theirs


@given(st.text(max_size=60))
def test_any_pattern_is_expanded_or_refused(pattern: str) -> None:
    try:
        found = expand(pattern)
    except ValueError:
        return
    assert 1 <= len(found) <= 100_000


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0/.", exclude_categories=["Cs"]), min_size=1, max_size=40),
        min_size=1, max_size=4, unique=True,
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from(["", "./", "../../", "/deep/er/", "x" * 150 + "/"]),
)  # fmt: skip
def test_any_member_name(tmp_path_factory: pytest.TempPathFactory, names: list[str], form: int, folder: str) -> None:
    root = tmp_path_factory.mktemp("shards")
    members = [(f"{folder}{name}.png", png(i)) for i, name in enumerate(names)]
    members += [(f"{folder}{name}.cls", b"0") for name in names]
    write_tar(root / "train.tar", members, form)
    write_tar(root / "test.tar", members, form)
    data = load(str(root))
    expected = np.stack([pixels_of(i).transpose(2, 0, 1) for i in range(len(names))])
    assert np.array_equal(data.train.read().numpy(), expected)


def test_a_sample_ends_at_the_first_dot(tmp_path: Path) -> None:
    root = make_shards(tmp_path)
    members = [("a.JPEG", png(0)), ("a.seg.png", b"another kind"), ("a.json", b"{}"), ("a.CLS", b"1"), ("._b.png", b"")]
    write_tar(root / "train-1.tar", members)
    data = load(str(root))
    assert (len(data.train), data.ignored) == (4, 3)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", png(0))], "a has no .cls"),
        ([("a.cls", b"0"), ("b.png", png(0)), ("b.cls", b"0")], "a has no image (jpg, jpeg, png, webp)"),
        ([("a.png", png(0)), ("a.jpg", png(1)), ("a.cls", b"0")], "there are two images of a"),
        ([("a.png", png(0)), ("a.cls", b"0"), ("a.cls", b"1")], "there are two .cls of a"),
        ([("a.png", png(0)), ("a.cls", b" \n")], "a.cls is not the number or the name of a class"),
        ([("a.png", png(0)), ("a.cls", b"\xff\xfe")], "a.cls is not the number or the name of a class"),
        ([("a.png", png(0)), ("a.cls", b"x" * 5000)], "a.cls is not the number or the name of a class"),
        ([("readme.txt", b"hello")], "has no images"),
    ],
)
def test_samples_that_are_none(members: list[Member], message: str, tmp_path: Path) -> None:
    root = make_shards(tmp_path)
    write_tar(root / "train-1.tar", members)
    assert message in refused(str(root))


def test_links_are_refused(tmp_path: Path) -> None:
    root = make_shards(tmp_path)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        with tarfile.open(root / "train-1.tar", "w") as tar:
            member = tarfile.TarInfo("a.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        assert "a.png is a link or has holes, and not a plain file" in refused(str(root))


def test_compressed_shards_are_refused(tmp_path: Path) -> None:
    root = make_shards(tmp_path)
    shard = root / "train-1.tar"
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    assert f"{shard} is compressed (gzip), so its members cannot be read one by one; unpack it" in refused(str(root))


def test_a_shard_that_was_cut_is_refused_wherever_it_was(tmp_path: Path) -> None:
    """At each block, in the middle of one, and with a header damaged; nothing is lost in silence."""
    root = make_shards(tmp_path)
    shard = root / "train-1.tar"
    whole = shard.read_bytes()
    end = whole.rindex(b"000005.cls") + 1024  # the blocks of zeros start here
    for cut in [*range(0, end + 1, 512), 100, 700, 1500, end - 100]:
        shard.write_bytes(whole[:cut])
        assert str(shard) in refused(str(root)), cut
    for start in range(0, end, 512):
        if whole[start + 257 : start + 262] == b"ustar":
            shard.write_bytes(whole[:start] + b"\xff" * 512 + whole[start + 512 :])
            assert f"{shard} cannot be read" in refused(str(root))
    shard.write_bytes(whole)
    assert torch.equal(load(str(root)).train.labels, torch.tensor([0, 1] * 3))
