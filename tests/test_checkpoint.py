"""Checkpoints: what is read is what was written to the last bit, or it is refused."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn
from training import OPTIMIZERS, AtEachStep, begin, bits, differences, frozen_copy, normed, tiny_recipe

from effnet_builder import tensors
from effnet_builder.train import run as directory
from effnet_builder.train.checkpoint import Checkpoint, Checkpoints, Damaged, read, write
from effnet_builder.train.engine import fit
from effnet_builder.train.job import Job
from effnet_builder.train.loggers import EpochMetrics
from effnet_builder.train.saving import NothingKept, RunSaver
from effnet_builder.train.state import State
from effnet_builder.train.stopping import SIGNALS, Stopped, StopRequest

pytestmark = pytest.mark.usefixtures("one_thread")


def stopped_at(step: int, state: State, job: Job) -> None:
    """Train to this step and no further."""
    stop = StopRequest()

    def look() -> None:
        if state.step == step:
            stop.signal = SIGNALS[0]

    job = replace(job, loggers=[AtEachStep(look)])
    with pytest.raises(Stopped):
        fit(state, job, None, stop)
    assert state.step == step


def network(seed: int = 0) -> nn.Module:
    """With a frozen layer, and a norm whose statistics are frozen with it."""
    model = normed(seed)
    model[3].requires_grad_(False)
    return model


def layouts(state: State) -> dict[str, Any]:
    assert state.average is not None
    found = {name: strides(tensor) for name, tensor in state.model.state_dict().items()}
    found |= {f"ema {name}": strides(tensor) for name, tensor in state.average.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            found[f"{key} {name}"] = strides(value)
    return found


def strides(tensor: Tensor) -> list[int]:
    """Where there is more than one place to go to."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


# From a state to a file and back


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_comes_back_to_the_last_bit(name: str, channels_last: bool, tmp_path: Path) -> None:
    recipe = tiny_recipe(optimizer=OPTIMIZERS[name], ema={"horizon": 0.5}, channels_last=channels_last, epochs=3)
    state, job = begin(network(), recipe, log_every=3)
    stopped_at(6, state, job)  # in the second of three epochs, two steps after the last report
    write(tmp_path / "file", state.checkpoint({"more": [1, {"é": None}]}))
    other, _ = begin(network(seed=1), recipe)
    other.load(found := read(tmp_path / "file"))
    assert found.facts["more"] == [1, {"é": None}]
    assert not differences(frozen_copy(state), frozen_copy(other))
    assert (other.clock, other.history) == (state.clock, state.history)
    assert layouts(other) == layouts(state)
    assert [group["lr"] for group in other.optimizer.param_groups] != []
    assert not other.model[3].weight.requires_grad
    fit(state, job, None, StopRequest())
    fit(other, replace(job, forward=other.model), None, StopRequest())
    assert not differences(frozen_copy(state), frozen_copy(other))
    assert len(other.history) == 3


def test_the_scale_of_float16_comes_back(tmp_path: Path) -> None:
    state, job = begin(normed(), tiny_recipe(precision="fp16"))
    stopped_at(3, state, job)
    write(tmp_path / "file", state.checkpoint({}))
    other, _ = begin(normed(), tiny_recipe(precision="fp16"))
    other.load(read(tmp_path / "file"))
    assert other.scaler.state_dict() == state.scaler.state_dict()
    assert other.scaler.get_scale() > 0


TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.builds(
        lambda shape, kind, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 9).to(kind),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
        st.integers(0, 99),
    ),
    max_size=4,
)  # fmt: skip
FACTS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(tensors=TENSORS, facts=FACTS)
def test_any_tensors_and_any_facts(
    tensors: Mapping[str, Tensor], facts: Mapping[str, Any], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    given = Checkpoint(tensors, {name: value for name, value in facts.items() if name != "format"})
    write(path, given)
    found = read(path)
    assert found.facts == {"format": 1, **given.facts}
    assert found.tensors.keys() == tensors.keys()
    assert all(tuple(found.tensors[name].shape) == tuple(tensors[name].shape) for name in tensors)
    assert all(
        found.tensors[name].dtype is tensor.dtype and torch.equal(found.tensors[name], tensor)
        for name, tensor in tensors.items()
    )


def test_numbers_that_are_none_come_back(tmp_path: Path) -> None:
    given = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    write(tmp_path / "file", Checkpoint({"x": given}, {"loss": float("inf")}))
    found = read(tmp_path / "file")
    assert found.tensors["x"].numpy().tobytes() == given.numpy().tobytes()
    assert found.facts["loss"] == float("inf")


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    """The library alone writes its metadata in another order each time."""
    contents = set()
    for i in range(20):
        state, job = begin(normed(), tiny_recipe(epochs=1))
        if i < 2:
            fit(state, job, None, StopRequest())
            state.history = []
        checkpoint = state.checkpoint({f"fact {n}": n for n in range(5)})
        write(tmp_path / str(i), Checkpoint(checkpoint.tensors, {**checkpoint.facts, "clock": None}))
        contents.add((i < 2, (tmp_path / str(i)).read_bytes()))
    assert len(contents) == 2
    with safe_open(tmp_path / "0", "pt") as opened:  # also for others this is a safetensors file
        assert opened.metadata().keys() == {"format", "facts", "digest"}
        assert torch.equal(opened.get_tensor("model.0.weight"), read(tmp_path / "0").tensors["model.0.weight"])


# Damage


def small() -> Checkpoint:
    numbers = {"a": torch.arange(5.0), "b.c": torch.tensor([[1, 2]]), "d": torch.tensor(True)}
    return Checkpoint(numbers, {"step": 3, "history": [{"loss": 0.5}]})


def outcome(path: Path, content: bytes) -> Checkpoint | None:
    """What is read of these bytes; None where they are refused, in one sentence with the name of the file."""
    path.write_bytes(content)
    try:
        return read(path)
    except Damaged as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
        return None


@pytest.fixture
def written(tmp_path: Path) -> bytes:
    write(tmp_path / "whole", small())
    return (tmp_path / "whole").read_bytes()


def test_every_truncation_is_noticed(tmp_path: Path, written: bytes) -> None:
    assert not differences(outcome(tmp_path / "x", written) or small(), read(tmp_path / "whole"))
    for size in range(len(written)):
        assert outcome(tmp_path / "x", written[:size]) is None, size
    for more in (b"\0", b"x" * 4096, written):
        assert outcome(tmp_path / "x", written + more) is None


def test_every_flipped_bit_is_noticed(tmp_path: Path, written: bytes) -> None:
    """Each bit of the whole file: none is read as something else, and what nobody reads is what others call it."""
    whole, unread = read(tmp_path / "whole"), written.index(b'"format":"pt"')
    for place in range(len(written)):
        for bit in range(8):
            flipped = bytearray(written)
            flipped[place] ^= 1 << bit
            found = outcome(tmp_path / "x", bytes(flipped))
            if found is not None:
                assert unread <= place < unread + len('"format":"pt"')
                assert not differences(found, whole), (place, bit, bytes(flipped)[max(0, place - 20) : place + 20])


def test_zeroed_and_repeated_pages_are_noticed(tmp_path: Path) -> None:
    """As a file system leaves them where a power cut came before the data."""
    state, job = begin(normed(), tiny_recipe(ema={"horizon": 0.5}))
    stopped_at(3, state, job)
    write(tmp_path / "whole", state.checkpoint({}))
    content, size = (tmp_path / "whole").read_bytes(), 512
    assert len(content) > 20 * size
    for start in range(0, len(content), size):
        before, after = content[:start], content[start + size :]
        if any(content[start : start + size]):
            assert outcome(tmp_path / "x", before + bytes(len(content[start : start + size])) + after) is None, start
        if start and content[start : start + size] != content[start - size : start] and after:
            assert outcome(tmp_path / "x", before + content[start - size : start] + after) is None, start
    generator = random.Random(0)
    for _ in range(500):
        flipped = bytearray(content)
        flipped[place := generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        found = outcome(tmp_path / "x", bytes(flipped))
        assert found is None or not differences(found, read(tmp_path / "whole")), place


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4096,
        b"text\n",
        pickle.dumps({"model": [1, 2, 3]}),
        b"\xff" * 100,
        (2**63).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"null",
        b"PK\x03\x04" + bytes(100),
    ],
    ids=["empty", "zeros", "text", "pickle", "ones", "huge-header", "no-metadata", "null", "zip"],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    assert outcome(tmp_path / "x", content) is None


def test_a_pickle_of_torch_is_never_loaded(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"step": Harm()}, tmp_path / "step-000000001.safetensors")
    with pytest.raises(Damaged, match="not a whole file"):
        read(tmp_path / "step-000000001.safetensors")
    assert not (tmp_path / "harm").exists()


def test_missing_files_folders_and_other_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Damaged, match="not a whole file"):
        read(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Damaged, match="not a whole file"):
        read(tmp_path / "folder")
    monkeypatch.setattr("effnet_builder.train.checkpoint._FORMAT", 2)
    write(tmp_path / "new", small())
    monkeypatch.undo()
    with pytest.raises(Damaged, match="of format 2; this version reads format 1"):
        read(tmp_path / "new")
    tensors.write_tensors(tmp_path / "weights", small().tensors, {"format": "pt"})
    with pytest.raises(Damaged, match="weights: no checkpoint"):
        read(tmp_path / "weights")


def test_a_checkpoint_of_another_network_or_optimizer_is_no_state(tmp_path: Path) -> None:
    state, _ = begin(normed(), tiny_recipe(ema={"horizon": 0.5}))
    wider = normed()
    wider[12] = nn.Linear(12, 7)
    without_average, _ = begin(normed(), tiny_recipe())
    for other in (begin(wider, tiny_recipe(ema={"horizon": 0.5}))[0], without_average):
        with pytest.raises((RuntimeError, KeyError)):
            state.load(other.checkpoint({}))


# Which are kept, and which is taken


def metrics(step: int, accuracy: float) -> EpochMetrics:
    return EpochMetrics(step, step, 8, 0.1, 1.0, 0.5, 1.0, accuracy, 1.0, None, None, None, 0, 1.0, 1.0, 0.0)


class Run:
    """A saver, what it said, and a state that is at some step."""

    def __init__(self, folder: Path, best: int = 1) -> None:
        self.said: list[str] = []
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.saver = RunSaver(self.checkpoints, {"spec": "x"}, self.said.append, best=best)
        self.state, _ = begin(normed(), tiny_recipe())

    def save(self, step: int, *history: tuple[int, float]) -> None:
        self.state.step, self.state.history = step, [metrics(*epoch) for epoch in history]
        self.saver.save(self.state)


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    seen = []
    history: list[tuple[int, float]] = []
    for step, accuracy in [(0, 0.0), (10, 0.4), (20, 0.9), (30, 0.5), (40, 0.9), (50, 0.6)]:
        history += [(step, accuracy)] if step else []
        run.save(step, *history)
        seen.append(run.checkpoints.steps())
    assert seen == [[0], [10, 0], [20, 10], [30, 20], [40, 30, 20], [50, 40, 20]]  # of equals, the first
    more = Run(tmp_path / "more", best=3)
    (tmp_path / "more").mkdir()
    for i in range(1, 8):
        more.save(10 * i, *[(10 * j, 1 / j) for j in range(1, i + 1)])
    assert more.checkpoints.steps() == [70, 60, 30, 20, 10]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [f"step-{step:09d}.safetensors" for step in (20, 40, 50)]


def test_a_damaged_one_is_passed_over_with_a_sentence(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(10)
    run.save(20)
    assert run.saver.newest().facts["step"] == 20
    path = run.checkpoints.path(20)
    path.write_bytes(path.read_bytes()[:-1])
    assert run.saver.newest().facts["step"] == 10
    assert len(run.said) == 1
    assert run.said[0].startswith(f"{path}: not a whole file (")
    assert run.said[0].endswith("); going on from an older one")
    run.checkpoints.path(10).write_bytes(b"")
    with pytest.raises(NothingKept, match="checkpoints has no checkpoint that can be read"):
        run.saver.newest()
    with pytest.raises(NothingKept):
        Run(tmp_path / "empty").saver.newest()


def test_a_run_that_went_back_has_no_later_checkpoints(tmp_path: Path) -> None:
    """Else a damaged one would stay the newest, and one of the two that are kept."""
    run = Run(tmp_path)
    for step in (10, 20, 30):
        run.save(step, (10, 0.9))
    run.checkpoints.path(30).write_bytes(b"")
    run.saver.restore(run.state)
    assert run.state.step == 20
    run.save(20, (10, 0.9))
    assert run.checkpoints.steps() == [20, 10]
    run.save(24, (10, 0.9))
    run.save(28, (10, 0.9))
    assert run.checkpoints.steps() == [28, 24, 10]


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(7)
    for name in ("step-8.safetensors", "step-000000009.safetensors.bak", ".step-000000010.safetensors.123", "notes"):
        (run.checkpoints.folder / name).write_text("x")
    assert run.checkpoints.steps() == [7]
    (tmp_path / ".metrics.csv.x1_y").write_text("x")
    (tmp_path / ".lock").write_text("x")
    directory.Run(tmp_path).clean()
    assert ".step-000000010.safetensors.123" not in os.listdir(run.checkpoints.folder)
    assert len(os.listdir(run.checkpoints.folder)) == 4
    assert sorted(os.listdir(tmp_path)) == [".lock", "checkpoints"]
    directory.Run(tmp_path / "nothing").clean()
    assert Checkpoints(tmp_path / "nothing").steps() == []


# Crashes and full disks


class Crash(BaseException):
    """The process is gone: nothing that it would have cleaned up is."""


CALLS = [("os.replace", os.replace), ("os.fsync", os.fsync), ("os.unlink", os.unlink), ("os.open", os.open)]


def crashing(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException, late: bool, cleaned: bool) -> list[int]:
    """Raise at the n-th call that touches the disk, before or after it does its work."""
    count = [0]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == at and not late:
                raise error
            result = real(*arguments, **options)
            if count[0] == at:
                raise error
            return result

        return call

    for name, real in CALLS:
        monkeypatch.setattr(name, wrapped(real))
    header = tensors.tensors_header
    monkeypatch.setattr(tensors, "tensors_header", wrapped(header))
    if not cleaned:
        monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        monkeypatch.setattr("os.unlink", lambda *_, **__: None)
    return count


def calls_of_one_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    run = Run(tmp_path / "count")
    (tmp_path / "count").mkdir()
    with monkeypatch.context() as patched:
        count = crashing(patched, -1, Crash(), late=False, cleaned=True)
        run.save(10)
    return count[0]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_leaves_a_checkpoint(late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_one_save(tmp_path, monkeypatch)
    assert calls >= 6  # the folder opened, the file made, written, flushed, renamed, the folder flushed
    for at in range(1, calls + 1):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        run = Run(folder)
        run.save(10)
        old = frozen_copy(run.state)
        with torch.no_grad():
            run.state.model[0].weight.add_(1)
        with monkeypatch.context() as patched:
            crashing(patched, at, Crash(), late, cleaned=False)
            with pytest.raises(Crash):
                run.save(20)
        found = run.saver.newest()
        assert not run.said
        expected = {10: old, 20: frozen_copy(run.state)}[found.facts["step"]]
        assert all(bits(found, expected, name) for name in expected.tensors)
        directory.Run(folder).clean()
        assert {path.name[0] for path in run.checkpoints.folder.iterdir()} == {"s"}
        run.save(30)
        assert run.saver.newest().facts["step"] == 30


def test_a_full_disk_stops_nothing_but_the_first_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_one_save(tmp_path, monkeypatch)
    for at in range(1, calls + 1):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        run = Run(folder)
        full = OSError(28, "No space left on device")
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
            crashing(patched, at, full, late=False, cleaned=True)
            run.save(0)
        assert all(path.name.startswith("step-") for path in run.checkpoints.folder.iterdir())
        run.save(10)
        with monkeypatch.context() as patched:
            crashing(patched, at, full, late=False, cleaned=True)
            run.save(20)
        last = run.checkpoints.steps()[0]
        (sentence,) = run.said
        assert sentence.startswith("no checkpoint of step 20 could be written: ")
        assert sentence.endswith(f": No space left on device; the last one is of step {last}")
        assert run.saver.newest().facts["step"] == last
        assert all(path.name.startswith("step-") for path in run.checkpoints.folder.iterdir())


def test_files_are_for_whoever_the_mask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "file", small())
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
