"""A study of candidates that several processes share. Optuna keeps it; every candidate is trained by one of them.

The database is all that the processes have in common, and creating a trial is the one thing that every database of
Optuna does atomically: trials get numbers in the order in which they become visible. So a process claims a candidate by
creating a running trial of it, then looks: of two that claim the same one, the lower number has it. Optuna's own queue
(`enqueue_trial`) needs SELECT ... FOR UPDATE, which SQLite lacks, and queues everything once for each process.
"""

from __future__ import annotations

import itertools
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from .arch.candidates import Candidate
from .config import ConfigError, Mark, Problem

BEAT = 5.0  # seconds from one sign of life of a process to the next
SILENCE = 30.0  # seconds without one, after which a process counts as dead
_POLL = 0.5  # seconds from one look at the others' trials to the next
_PATIENCE = 60.0  # seconds to wait for a lock of the file

_RUNS, _DONE = TrialState.RUNNING, (TrialState.COMPLETE, TrialState.PRUNED)
_DIVERGED, _FREE = TrialState.PRUNED, TrialState.FAIL
_MADE_FOR = "made for"

Train = Callable[[Candidate], float | None]
"""The accuracy of a candidate, from 0 to 1; None where the loss diverged."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """A candidate and what came of it: accuracy from 0 to 1, None where the loss diverged."""

    candidate: Candidate
    accuracy: float | None
    seconds: float


class SharedStudy:
    """The candidates of one search, of which this process trains those that no other one does."""

    def __init__(self, study: optuna.Study, candidates: Sequence[Candidate], say: Say) -> None:
        self.study, self.candidates, self.say = study, candidates, say
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.signs: dict[str, tuple[object, float]] = {}  # the last of each process, and when it was new

    def work(self, train: Train) -> None:
        """Train until every candidate is trained, here or elsewhere; one whose process died is trained again.

        Raises OSError where the database is out of reach.
        """
        try:
            with self._beating(), self._giving_back():
                while (trial := self._next()) is not None:
                    self._run(trial, train)
        except StorageInternalError as error:
            raise OSError(f"the study is out of reach: {_reason(error)}") from None

    def done(self) -> dict[int, FrozenTrial]:
        """The finished trial of each candidate that has one, by its index."""
        return {_index(trial): trial for trial in reversed(self._trials(*_DONE))}

    def ranking(self) -> list[Trained]:
        """What is trained yet: highest accuracy first, fewest MACs first where it is equal, diverged ones last."""
        results = [
            Trained(self.candidates[index], trial.value if trial.state is not _DIVERGED else None, _seconds(trial))
            for index, trial in self.done().items()
        ]
        return sorted(results, key=lambda one: (one.accuracy is None, -(one.accuracy or 0.0), one.candidate.macs))

    def _next(self) -> FrozenTrial | None:
        """A new trial of this process; None when nothing is left to do."""
        waited_for: set[int] = set()
        while len(self.done()) < len(self.candidates):
            self._free_orphans()
            trial = self._claim()
            if trial is not None:
                return trial
            for other in self._trials(_RUNS):
                if other.number not in waited_for:
                    self.say(f"waiting for candidate {_index(other) + 1}, which {_worker(other)} trains")
                    waited_for.add(other.number)
            time.sleep(_POLL)
        return None

    def _claim(self) -> FrozenTrial | None:
        """A new trial of the first candidate that nobody has; None where there is none."""
        while True:
            taken = {_index(trial) for trial in self._trials(_RUNS, *_DONE)}
            free = next((index for index in range(len(self.candidates)) if index not in taken), None)
            if free is None:
                return None
            self.study.add_trial(self._trial(free))
            first = next((trial for trial in self._trials(_RUNS, *_DONE) if _index(trial) == free), None)
            if first is not None and _worker(first) == self.worker:
                return first
            self._give_back()

    def _trial(self, index: int) -> FrozenTrial:
        """A running trial that says, from its first moment, whose it is and of what."""
        point = {name: getattr(self.candidates[index], name) for name in ("alpha", "beta", "gamma")}
        attributes = {name: getattr(self.candidates[index], name) for name in ("params", "macs", "resolution")}
        return create_trial(
            state=_RUNS,
            params=point,
            distributions={
                name: FloatDistribution(1.0, max(getattr(one, name) for one in self.candidates)) for name in point
            },
            user_attrs={"candidate": index, "worker": self.worker} | attributes,
        )

    def _run(self, trial: FrozenTrial, train: Train) -> None:
        candidate = self.candidates[_index(trial)]
        label = f"candidate {_index(trial) + 1} of {len(self.candidates)}: {candidate}"
        self.say(f"{label}: training")
        start = time.monotonic()
        accuracy = train(candidate)
        result = "diverged" if accuracy is None else f"{accuracy:.2%}"
        if not self._tell(trial.number, _DIVERGED if accuracy is None else None, accuracy):
            result += ", not counted: after a long silence of this process another one took the candidate"
        self.say(f"{label}: {result}, {time.monotonic() - start:.1f} s; {len(self.done())} are trained")

    def _tell(self, number: int, state: TrialState | None, accuracy: float | None = None) -> bool:
        """Finish a trial; False where another process has done so."""
        try:
            self.study.tell(number, accuracy, state)
        except (ValueError, UpdateFinishedTrialError):
            return False
        return True

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _free_orphans(self) -> None:
        """Free the candidates of processes that give no sign of life.

        What counts is how long this process sees no change, by its own clock: those of machines differ.
        """
        signs, now = self.study.user_attrs, time.monotonic()
        for trial in self._trials(_RUNS):
            worker, sign = _worker(trial), signs.get(_worker(trial))
            known, since = self.signs.get(worker, (None, now))
            if worker not in self.signs or sign != known:
                self.signs[worker] = sign, now
            elif now - since > SILENCE and self._tell(trial.number, _FREE):
                self.say(f"candidate {_index(trial) + 1} is free again: no sign of life from {worker}")

    def _give_back(self) -> None:
        """Free what this process has claimed."""
        for trial in self._trials(_RUNS):
            if _worker(trial) == self.worker:
                self._tell(trial.number, _FREE)

    @contextmanager
    def _giving_back(self) -> Iterator[None]:
        """Free what this process trains when it is told to stop, so that nobody need wait for its silence."""
        try:
            yield
        finally:
            self._give_back()

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Give signs of life to the other processes."""
        stop = threading.Event()

        def beat() -> None:
            for count in itertools.count():
                with suppress(StorageInternalError):  # the next one may get through
                    self.study.set_user_attr(self.worker, count)
                if stop.wait(BEAT):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def open_study(storage: str, name: str, made_for: Mapping[str, str]) -> optuna.Study:
    """The study of this name in a file, or in the database of a URL; made where it is not there.

    Raises ConfigError where it cannot be opened, and where it was made for something else than `made_for` says.
    """
    mark = Mark(f"--study {shown(storage)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = _create_or_load(_database(storage), name, made_for)
    except (SQLAlchemyError, StorageInternalError, OSError, ImportError, RuntimeError) as error:
        raise ConfigError([Problem(f"cannot be opened: {_reason(error)}", mark=mark)]) from None
    found = study.user_attrs.get(_MADE_FOR, {})
    differing = [key for key, value in made_for.items() if found.get(key) != value]
    if differing:
        other = f"the study {name!r} in it was made with another {', '.join(differing)}"
        raise ConfigError([Problem(f"{other}; go on with the same, or give a study of its own to this one", mark=mark)])
    return study


def shown(storage: str) -> str:
    """The file or URL as it may be printed: without a password."""
    scheme, separator, rest = storage.partition("://")
    return f"{scheme}://***@{rest.rpartition('@')[2]}" if separator and "@" in rest else storage


def _create_or_load(database: RDBStorage, name: str, made_for: Mapping[str, str]) -> optuna.Study:
    """Names are unique in a database, so one process alone makes the study, and says what for."""
    try:
        study = optuna.create_study(storage=database, study_name=name, direction="maximize")
    except DuplicatedStudyError:
        study = optuna.load_study(storage=database, study_name=name)
        until = time.monotonic() + 10
        while _MADE_FOR not in study.user_attrs and time.monotonic() < until:
            time.sleep(_POLL)  # its maker is about to say so
    else:
        study.set_user_attr(_MADE_FOR, dict(made_for))
    return study


def _database(storage: str, attempts: int = 5) -> RDBStorage:
    """The database; of processes that make its tables at the same moment, all but one fail, and try again.

    The embedded file is SQLite's, and not Optuna's journal: a disk that fills up, or a process that is killed, in the
    middle of a write leaves it whole, where a torn line ends a journal for good; and it is used as servers are.
    """
    url, options = storage, {}
    if "://" not in storage:
        file = Path(storage).absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        # Connected to here, because a path in a URL would have to be quoted.
        connect = partial(sqlite3.connect, file, timeout=_PATIENCE, check_same_thread=False)
        url, options = "sqlite:///file", {"creator": connect}
    for _ in range(attempts - 1):
        with suppress(SQLAlchemyError, StorageInternalError):
            return RDBStorage(url, engine_kwargs=dict(options))
        time.sleep(_POLL)
    return RDBStorage(url, engine_kwargs=dict(options))


def _index(trial: FrozenTrial) -> int:
    index: int = trial.user_attrs["candidate"]
    return index


def _worker(trial: FrozenTrial) -> str:
    worker: str = trial.user_attrs["worker"]
    return worker


def _seconds(trial: FrozenTrial) -> float:
    return 0.0 if trial.duration is None else trial.duration.total_seconds()


def _reason(error: Exception) -> str:
    """What the system or the first line of the database says."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return str(error.__cause__ or error).partition("\n")[0]
