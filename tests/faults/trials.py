"""One trial of each kind of fault, with everything random drawn from its seed: the tests do some, `soak.py` many."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import SERVER, Command, Ended, Fault, Place, command, differences, outcome

from effnet_builder.train.checkpoint import Checkpoint, Checkpoints, Damaged
from effnet_builder.train.run import Run

# Where a process can be killed, as the callers know it, and about how often a run calls it.
AIMS: dict[str, tuple[str, int]] = {
    "checkpoint write": ("effnet_builder.tensors:tensors_header", 10),
    "temporary file": ("os:urandom", 25),
    "flush": ("os:fsync", 30),
    "rename": ("os:replace", 25),
    "old checkpoint removed": ("pathlib:Path.unlink", 6),
    "log append": ("effnet_builder.train.sinks:JsonlLogger._append", 24),
    "table": ("effnet_builder.train.loggers:write_atomic", 8),
    "average update": ("torch:_foreach_lerp_", 21),
    "optimizer step": ("torch.optim:SGD.step", 21),
    "evaluation": ("effnet_builder.train.predictions:predict_batch", 20),
    "cache build": ("effnet_builder.train.cache:_write_all", 6),
    "test": ("effnet_builder.cli.finish:measure", 2),
    "weights": ("effnet_builder.cli.finish:write_weights", 1),
    "result": ("effnet_builder.train.run:write_atomic", 4),
}
STORAGES = ("memory", "cache", "stream")


@dataclass(frozen=True)
class Bench:
    """Where trials are made, and what their runs must come to."""

    place: Place
    expected: Mapping[str, object]
    cache: bytes  # the file of decoded images

    def options(self, chance: random.Random, folder: Path) -> tuple[list[str], dict[str, str]]:
        """Any way to keep the images, and a folder for a cache that may not be there yet."""
        options = ["--storage", chance.choice(STORAGES), "--workers", chance.choice("02")]
        return options, {"EFFNET_BUILDER_DATA": str(folder / "data")}


def make_bench(place: Place, folder: Path) -> Bench:
    """The run that nothing harms, with its cache."""
    run, data = folder / "run", folder / "data"
    ended = command(place.start(run, "--storage", "cache"), folder, environment={"EFFNET_BUILDER_DATA": str(data)})
    assert (ended.code, ended.err) == (0, ""), ended.said()
    return Bench(place, outcome(run), cache_in(data))


def cache_in(data: Path) -> bytes:
    (file,) = data.rglob("*.safetensors")
    return file.read_bytes()


def next_command(bench: Bench, run: Path, chance: random.Random) -> tuple[list[str], dict[str, str]]:
    """Start the run, or go on with it where there is something to go on from."""
    options, environment = bench.options(chance, run.parent)
    if Run(run).checkpoints.steps():
        return ["--resume", str(run), *options], environment
    shutil.rmtree(run, ignore_errors=True)
    return bench.place.start(run, *options), environment


def check_ended(ended: Ended, run: Path, bench: Bench) -> None:
    assert ended.code == 0, ended.said()
    assert not differences(run, bench.expected), ended.said()
    assert [path.name for path in run.rglob(".*")] == [".lock"], "left over"


def kill_at_random_times(bench: Bench, folder: Path, seed: int) -> int:
    """Up to six kills of one run, at any time; how many there were."""
    chance, run, kills = random.Random(seed), folder / "run", 0
    for _ in range(chance.randint(1, 6)):
        arguments, environment = next_command(bench, run, chance)
        process = Command(arguments, folder, environment=environment)
        time.sleep(chance.uniform(0, 0.9))
        process.kill()
        ended = process.end()
        kills += ended.code == -signal.SIGKILL
        assert ended.code in (0, -signal.SIGKILL), ended.said()
        if ended.code == 0:
            break
    if not Run(run).done:
        arguments, environment = next_command(bench, run, chance)
        check_ended(command(arguments, folder, environment=environment), run, bench)
    assert not differences(run, bench.expected)
    return kills


def kill_where_it_hurts(bench: Bench, folder: Path, seed: int, aim: str | None = None) -> int:
    """Kills before or after a call of one function, and of another when the run goes on; how many there were."""
    chance, run, kills = random.Random(seed), folder / "run", 0
    for _ in range(3):
        target, calls = AIMS[aim or chance.choice(list(AIMS))]
        fault = Fault(target, chance.randint(1, calls), "SIGKILL", late=chance.random() < 0.5)
        arguments, environment = next_command(bench, run, chance)
        ended = command(arguments, folder, fault, environment=environment)
        assert ended.code in (0, -signal.SIGKILL), f"{fault}: {ended.said()}"
        kills += ended.code != 0
        if Run(run).done:  # also where it was killed behind its last write
            break
    if not Run(run).done:
        arguments, environment = next_command(bench, run, chance)
        check_ended(command(arguments, folder, environment=environment), run, bench)
    assert not differences(run, bench.expected)
    for file in (folder / "data").rglob("*.safetensors"):
        assert file.read_bytes() == bench.cache
    return kills


def kill_while_the_cache_is_built(bench: Bench, folder: Path, seed: int) -> int:
    """Starts that are killed among the first images that they decode; the cache is whole or not there."""
    chance, kills, environment = random.Random(seed), 0, {"EFFNET_BUILDER_DATA": str(folder / "data")}
    for attempt in range(4):
        run = folder / f"run-{attempt}"
        target = chance.choice(
            ["effnet_builder.train.cache:_write_all", "effnet_builder.train.survey:decode", "os:replace"]
        )
        fault = Fault(target, chance.randint(1, {"s": 1}.get(target[0], 5)), "SIGKILL", late=chance.random() < 0.5)
        ended = command(bench.place.start(run, "--storage", "cache"), folder, fault, environment=environment)
        kills += ended.code != 0
        files = list((folder / "data").rglob("*.safetensors"))
        assert all(file.read_bytes() == bench.cache for file in files), str(fault)
    run = folder / "run"
    ended = command(bench.place.start(run, "--storage", "cache"), folder, environment=environment)
    check_ended(ended, run, bench)
    assert cache_in(folder / "data") == bench.cache
    assert not list((folder / "data").rglob("*.unfinished"))
    return kills


def kill_an_evaluation(bench: Bench, folder: Path, seed: int, run: Path, figures: str) -> int:
    """`eval-arch` is killed at any time; the run stays as it was, and so do the figures."""
    chance = random.Random(seed)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    process = Command([run, "--workers", chance.choice("02")], folder, program="evaluate")
    time.sleep(chance.uniform(0, 0.25))
    process.kill()
    code = process.end().code
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    if chance.random() < 0.2:
        ended = command([run], folder, program="evaluate")
        assert (ended.code, ended.out) == (0, figures), ended.said()
    return int(code == -signal.SIGKILL)


def signal_at_random_times(bench: Bench, folder: Path, seed: int) -> int:
    """SIGTERM or SIGINT at any time, sometimes a second one; how many ended a process."""
    chance, run, stops = random.Random(seed), folder / "run", 0
    for _ in range(chance.randint(1, 4)):
        arguments, environment = next_command(bench, run, chance)
        process = Command(arguments, folder, environment=environment)
        first, second = (chance.choice([signal.SIGTERM, signal.SIGINT]) for _ in range(2))
        time.sleep(chance.uniform(0.15, 0.9))  # by then the process of the fork server has become the command
        process.kill(first)
        twice = chance.random() < 0.4
        if twice:
            time.sleep(chance.uniform(0, 0.05))
            process.kill(second)
        ended = process.end()
        allowed = {0, 128 + first} | ({128 + second} if twice else set())
        if twice and ended.err.startswith("stopped by"):
            allowed |= {1, -second}  # the second one came when the command had ended and its process had not yet
        if not ended.out:
            allowed |= {-first, -second}  # before the command had begun to listen
        assert ended.code in allowed, ended.said()
        assert "Traceback" not in ended.err, ended.said()
        assert len(ended.err.splitlines()) <= 1, ended.said()
        stops += ended.code != 0
        if Run(run).done:
            break
    if not Run(run).done:
        arguments, environment = next_command(bench, run, chance)
        check_ended(command(arguments, folder, environment=environment), run, bench)
    assert not differences(run, bench.expected)
    return stops


# Checkpoints


def kill_during_writes(folder: Path, seed: int, megabytes: float = 8) -> tuple[int, bool]:
    """A process that does nothing but save is killed: the step found again, and whether a file was half written."""
    checkpoints, said = Checkpoints(folder / "checkpoints"), folder / "said"
    process = SERVER.Process(target=_save_for_ever, args=(checkpoints.folder, said, seed, int(megabytes * 2**18)))
    process.start()
    chance = random.Random(seed)
    while not said.exists() or not said.stat().st_size:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.1))
    process.kill()
    process.join()
    announced = int(said.read_text().split()[-1])
    found = [(step, one) for step, one in checkpoints.newest()]
    assert not [one for _, one in found if isinstance(one, Damaged)], "one cannot be loaded"
    assert found[0][0] >= announced, "a step that was announced is lost"
    for step, one in found:
        assert isinstance(one, Checkpoint)
        assert one.facts["step"] == step
        assert bool((one.tensors["weights"] == step).all())
    torn = bool(list(checkpoints.folder.glob(".*")))
    Run(folder).clean()
    assert not list(checkpoints.folder.glob(".*"))
    return found[0][0], torn


def _save_for_ever(folder: Path, said: Path, seed: int, floats: int) -> None:
    torch.set_num_threads(1)
    checkpoints, step = Checkpoints(folder), seed % 1000
    with said.open("a") as announced:
        while True:
            checkpoints.save(step, Checkpoint({"weights": torch.full((floats,), float(step))}, {"step": step}))
            announced.write(f"{step}\n")
            announced.flush()
            step += 1


def damage(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """The name of a way to harm the contents of a checkpoint, and what they then are."""
    kind = chance.choice(
        ["bit", "bit", "bit", "bits", "zeros", "page", "truncated", "grown", "header", "empty", "pickle"]
    )
    harmed = bytearray(content)
    at = chance.randrange(len(content))
    header = int.from_bytes(content[:8], "little") + 8
    if kind == "bit":
        harmed[at] ^= 1 << chance.randrange(8)
    elif kind == "bits":
        for _ in range(chance.randint(2, 64)):
            harmed[chance.randrange(len(harmed))] ^= 1 << chance.randrange(8)
    elif kind == "zeros":  # as a power cut leaves pages that were never written
        at -= at % 4096
        harmed[at : at + 4096] = bytes(len(harmed[at : at + 4096]))
    elif kind == "page":
        source = chance.randrange(len(content)) // 4096 * 4096
        at -= at % 4096
        page = content[source : source + 4096]
        harmed[at : at + len(page)] = page
        del harmed[len(content) :]
    elif kind == "truncated":
        del harmed[at:]
    elif kind == "grown":
        harmed += chance.randbytes(chance.randint(1, 100))
    elif kind == "header":
        harmed[chance.randrange(header)] = chance.randrange(256)
    elif kind == "empty":
        harmed.clear()
    elif kind == "pickle":
        harmed = bytearray(pickle.dumps(_Evil()))
    return kind, bytes(harmed)


class _Evil:
    """Writes a file where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(CANARY),)


CANARY = Path("/tmp/effnet_builder-canary")


def corrupt(run: Path, seed: int) -> str | None:
    """Harm the newest checkpoint of a run: which way, or None where nothing changed; it is noticed, and put right."""
    checkpoints = Run(run).checkpoints
    newest, before = checkpoints.steps()[:2]
    path = checkpoints.path(newest)
    content = path.read_bytes()
    kind, harmed = damage(content, random.Random(seed))
    if harmed == content:
        return None
    path.write_bytes(harmed)
    try:
        (_, first), (step, second) = [found for found, _ in zip(checkpoints.newest(), range(2), strict=False)]
        assert isinstance(first, Damaged), f"{kind} of seed {seed} was not noticed"
        assert isinstance(second, Checkpoint)
        assert step == before
    finally:
        path.write_bytes(content)
    assert not CANARY.exists(), "code ran"
    return kind
