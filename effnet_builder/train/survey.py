"""Which of the listed images can be read, and how large they become: by their headers, or by decoding them all."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ..config import ConfigError, Mark, Problem
from ..files import read_regular, write_atomic
from .ahead import ahead
from .cache import Write
from .encoded import Encoded, Listing, decode, short_side, why
from .images import Wanted
from .storage import OnBad

PIECE = 32  # images of a piece of work
TIMEOUT = 120.0  # seconds for a piece
_MOST_BAD = 0.01
_MOST_BYTES = 2**26  # of what is remembered
_NAMED = 20  # of the images that are left out

Result = TypeVar("Result")


@dataclass(frozen=True)
class Survey:
    """What is known of the images of a listing."""

    side: int  # px of all of them, once decoded
    bad: dict[int, str]  # the rows that cannot be read, and why
    decoded: bool = False  # whether they were all decoded, or only their headers were read


def survey_headers(listing: Listing, wanted: Wanted) -> Survey:
    """The headers of all images: S is the size that is wanted, or less where every image is smaller."""
    files = listing.files

    def look(rows: range) -> tuple[int, dict[int, str]]:
        side, bad = 0, {}
        for row in rows:
            try:
                side = max(side, short_side(files, row))
            except MemoryError:  # no fault of the image
                raise
            except Exception as error:  # Pillow's readers raise what they please
                bad[row] = why(error)
        return side, bad

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # those are refused
        found = _in_pieces(files, look, wanted, "checking images")
    side = min(wanted.size, max(side for side, _ in found))
    return Survey(max(side, 1), {row: reason for _, bad in found for row, reason in bad.items()})


def decode_all(listing: Listing, survey: Survey, wanted: Wanted, write: Write | None = None) -> Survey:
    """Decode every image that the survey does not call bad, and write it if that is wanted, zeros for a bad one."""
    files, shape = listing.files, image_shape(survey, wanted)

    def work(rows: range) -> dict[int, str]:
        images, bad = np.zeros((len(rows), *shape), np.uint8), {}
        for row, image in zip(rows, images, strict=True):
            if row in survey.bad:
                continue
            try:
                decode(files.content(row), image)
            except MemoryError:  # no fault of the image
                raise
            except Exception as error:
                image[:] = 0
                bad[row] = why(error)
        if write is not None:
            write(rows.start, images)
        return bad

    found = _in_pieces(files, work, wanted, "reading images")
    return Survey(survey.side, survey.bad | {row: reason for bad in found for row, reason in bad.items()}, True)


def image_shape(survey: Survey, wanted: Wanted) -> tuple[int, int, int]:
    """(C, S, S)."""
    return wanted.channels, survey.side, survey.side


def refuse_bad(listing: Listing, survey: Survey, wanted: Wanted) -> None:
    """Raise ConfigError for the bad images: every one, or where they are to be skipped, if those are too many."""
    bad, count = survey.bad, len(listing.files)
    if bad and wanted.on_bad is OnBad.error:
        raise ConfigError(Problem(reason, mark=Mark(listing.files.label(row))) for row, reason in sorted(bad.items()))
    if len(bad) > _MOST_BAD * count:
        raise wanted.refuse(
            f"{len(bad):,} of {count:,} images cannot be read, more than {_MOST_BAD:.0%}; {_first(listing, survey)}"
        )
    good = np.ones(count, bool)
    good[list(bad)] = False
    for part in (slice(0, listing.train), slice(listing.train, None)):
        gone = set(listing.labels[part]) - set(listing.labels[part][good[part]])
        if gone:
            names = ", ".join(listing.classes[label] for label in sorted(gone)[:10])
            raise wanted.refuse(f"no image can be read of the classes {names}; {_first(listing, survey)}")


def notes_of(listing: Listing, survey: Survey) -> tuple[str, ...]:
    """What was left out, for the person to know."""
    if not survey.bad:
        return ()
    others = [f"left out too: {listing.files.label(row)}, {survey.bad[row]}" for row in sorted(survey.bad)[1:_NAMED]]
    if len(survey.bad) > _NAMED:
        others.append(f"... and {len(survey.bad) - _NAMED:,} more")
    return (f"{len(survey.bad):,} of {len(listing.files):,} images are left out; {_first(listing, survey)}", *others)


def _first(listing: Listing, survey: Survey) -> str:
    row = min(survey.bad)
    return f"the first is {listing.files.label(row)}, {survey.bad[row]}"


def recall(path: Path, state: str) -> Survey | None:
    """The survey in this file, if it was made of this state of the files, by decoding them all."""
    try:
        found = json.loads(read_regular(path, _MOST_BYTES))
        survey = Survey(
            found["side"], {int(row): str(reason) for row, reason in found["bad"].items()}, found["decoded"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return survey if found["state"] == state and survey.decoded else None


def remember(path: Path, state: str, survey: Survey) -> None:
    """Keep the survey for the next start, where there is a place for it: then nothing is decoded to look."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"state": state} | vars(survey)))


def _in_pieces(files: Encoded, work: Callable[[range], Result], wanted: Wanted, what: str) -> list[Result]:
    """The work on all rows, a piece at a time, in threads: Pillow lets others run while it decodes."""
    pieces = [range(start, min(start + PIECE, len(files))) for start in range(0, len(files), PIECE)]
    threads = os.cpu_count() or 1
    found: list[Result] = []
    with closing(ahead([work] * threads, pieces, 2 * threads, TIMEOUT)) as results:
        try:
            for _ in wanted.progress(map(found.append, results), len(pieces), what):
                pass
        except TimeoutError:
            first = files.label(pieces[len(found)].start)
            raise wanted.refuse(f"no answer for {TIMEOUT:.0f} s from {first} or a file after it") from None
    return found
