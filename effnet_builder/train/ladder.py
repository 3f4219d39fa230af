"""The ladder: encoded images decoded into memory, into a cache on disk, or anew in every epoch, as there is room."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import torch

from .cache import NoCache, Write, build_cache, open_cache
from .encoded import Listing, Streamed
from .images import DataError, Dataset, ImageSet, Pixels, Resident, Shape, Wanted
from .storage import DATA_VARIABLE, OnBad, Room, Storage, data_folder, in_bytes
from .survey import Survey, decode_all, image_shape, notes_of, recall, refuse_bad, remember, survey_headers


def keep(listing: Listing, wanted: Wanted) -> Dataset:
    """The data set, with its pixels where there is room for them. Raises ConfigError, for every file that is bad."""
    ladder = _Ladder(listing, wanted)
    pixels, survey, storage, where = ladder.climb()
    good = np.ones(len(listing.files), bool)
    good[list(survey.bad)] = False
    labels, rows = torch.from_numpy(listing.labels), torch.from_numpy(np.flatnonzero(good))
    parts = (rows[rows < listing.train], rows[rows >= listing.train])
    train, test = (ImageSet(pixels, labels[part], part) for part in parts)
    return Dataset(
        listing.name,
        listing.classes,
        train,
        test,
        listing.ignored,
        (*listing.notes, *ladder.notes, *notes_of(listing, survey)),
        storage,
        where,
        _key(listing.files.identity, listing.classes, hashlib.blake2b(listing.labels.tobytes()).hexdigest()),
    )


class _Ladder:
    """The rungs for one listing."""

    def __init__(self, listing: Listing, wanted: Wanted) -> None:
        self.listing = listing
        self.wanted = wanted
        self.state = _key(wanted.channels, wanted.size, listing.files.state)
        self.path = _cache_path(listing, wanted)
        self.cached = open_cache(self.path, self.state, wanted.on_bad is OnBad.skip)
        self.survey = self._survey()
        self.shape: Shape = (len(listing.files), *image_shape(self.survey, wanted))
        self.notes: list[str] = []

    def _survey(self) -> Survey:
        if self.cached is not None:
            reason = "not a readable image when the cache was made"
            return Survey(self.cached.shape[-1], dict.fromkeys(np.flatnonzero(self.cached.bad).tolist(), reason), True)
        known = recall(self.path.with_suffix(".json"), self.state)
        survey = known or survey_headers(self.listing, self.wanted)
        if survey.bad and self.wanted.on_bad is OnBad.error:
            survey = decode_all(self.listing, survey, self.wanted)  # so that one error lists them all
        refuse_bad(self.listing, survey, self.wanted)
        return survey

    def climb(self) -> tuple[Pixels, Survey, Storage, str]:
        """The first rung that has room, or the one that is wanted; and a sentence that says so."""
        storage, needed = self.wanted.storage, math.prod(self.shape)
        room = Room(self.wanted.free, _free_disk(self.path))
        if storage is Storage.auto:
            storage = room.choose(needed)
            if storage is Storage.stream and self.cached is not None:
                storage = Storage.cache
        if storage in (Storage.memory, Storage.device):
            self.wanted.check_memory(self.shape[0], self.survey.side, self.wanted.channels, copies=1)
            return *self._into_memory(), Storage.memory, "kept in memory"
        if storage is Storage.cache:
            try:
                return *self._into_cache(), Storage.cache, f"cached in {self.path}"
            except NoCache as error:
                reason = f"no cache of {in_bytes(needed)} can be made in {self.path.parent}: {error}"
                if self.wanted.storage is Storage.cache:
                    raise self.wanted.refuse(reason) from None
        elif self.wanted.storage is Storage.stream:
            reason = "as asked for"
        else:
            reason = f"no room for a cache of {in_bytes(needed)} in {self.path.parent}"
        return *self._streamed(), Storage.stream, f"decoded anew in every epoch by the workers: {reason}"

    def _decode(self, write: Write | None = None) -> Survey:
        """The survey after every image was decoded, and written if that is wanted. Raises ConfigError."""
        survey = decode_all(self.listing, self.survey, self.wanted, write)
        refuse_bad(self.listing, survey, self.wanted)
        return survey

    def _into_memory(self) -> tuple[Pixels, Survey]:
        images = torch.empty(self.shape, dtype=torch.uint8)
        if self.cached is not None:
            try:
                return Resident(self.cached.read(torch.arange(len(images)), images)), self.survey
            except DataError as error:
                raise self.wanted.refuse(str(error)) from None
        rows = images.numpy()

        def write(row: int, decoded: np.ndarray) -> None:
            rows[row : row + len(decoded)] = decoded

        return Resident(images), self._decode(write)

    def _into_cache(self) -> tuple[Pixels, Survey]:
        """Raises NoCache where there is no place for it."""
        if self.cached is not None:
            return self.cached, self.survey
        found: list[Survey] = []

        def fill(write: Write) -> np.ndarray:
            found.append(self._decode(write))
            bad = np.zeros(self.shape[0], bool)
            bad[list(found[0].bad)] = True
            return bad

        allow_bad = self.wanted.on_bad is OnBad.skip
        self.cached = build_cache(self.path, self.state, self.shape, allow_bad, fill, self._wait)
        return self.cached, found[0] if found else self._survey()

    def _wait(self) -> None:
        note = "waited for another process that made the same cache"
        if note not in self.notes:
            self.notes.append(note)
            for _ in self.wanted.progress([], 0, "waiting for the cache that another process makes"):
                pass

    def _streamed(self) -> tuple[Pixels, Survey]:
        # Once for each state of the files: one whose end is missing is not to be found in the midst of the training.
        survey = self.survey if self.survey.decoded else self._decode()
        remember(self.path.with_suffix(".json"), self.state, survey)
        return Streamed(self.listing.files, self.shape), survey


def _cache_path(listing: Listing, wanted: Wanted) -> Path:
    """One file for each folder, channels and size; it is replaced when what is in the folder changes."""
    try:
        folder = Path(wanted.cache_dir).expanduser() if wanted.cache_dir else data_folder() / "images"
    except RuntimeError as error:
        if wanted.storage is Storage.cache:
            raise wanted.refuse(f"no place for a cache: {error} ${DATA_VARIABLE} may name one") from None
        folder = Path(os.devnull)  # there is room for none
    name = re.sub("[^A-Za-z0-9_-]+", "-", listing.name)[:50]
    return (
        folder / f"{name}-{_key(os.path.realpath(listing.files.folder), wanted.channels, wanted.size)[:12]}.safetensors"
    )


def _free_disk(path: Path) -> int | None:
    """Bytes for a file there, in the first folder on the way up that exists."""
    for folder in path.absolute().parents:
        try:
            return shutil.disk_usage(folder).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def _key(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(errors="surrogateescape"), digest_size=16).hexdigest()
