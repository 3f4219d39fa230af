"""Files of published data sets: fetched once, and in their place only when they are whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import Request, urlopen

from ..config import of_system, printable
from ..files import NotRegularError, open_regular
from .images import Progress, Wanted

_CHUNK = 2**18
_TIMEOUT = 30  # seconds without an answer; torchvision's own download waits for as long as the network lets it


@dataclass(frozen=True)
class Archive:
    """A file to download, and what is read of it: paths in the same folder, with their md5 where it is known."""

    name: str
    md5: str
    urls: tuple[str, ...]
    holds: tuple[tuple[str, str | None], ...]


def fetch_missing(archives: Sequence[Archive], folder: Path, wanted: Wanted, check: Callable[[], None]) -> bool:
    """Return whether something had to be unpacked or downloaded into `folder`. Raises ConfigError if that fails.

    `check` is called before that, and may refuse. Several processes may do so at once: each works in a hidden folder
    of its own, and renames file by file.
    """
    try:
        missing = {archive: path for archive in archives for path in _not_whole(archive, folder)[:1]}
    except OSError as error:
        raise wanted.refuse(f"cannot be read: {error}") from None
    if not missing:
        return False
    check()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            for archive in missing:
                _install(archive, folder, Path(temporary), wanted.progress)
    except (OSError, EOFError) as error:
        reason = of_system(error) if isinstance(error, OSError) else str(error)
        first, names = next(iter(missing.values())), ", ".join(archive.name for archive in missing)
        raise wanted.refuse(
            f"{first} is not in {folder}, or not whole, and could not be put there: {printable(reason)}; "
            f"by hand, put {names} into {folder}"
        ) from None
    return True


def _not_whole(archive: Archive, folder: Path) -> list[str]:
    return [path for path, md5 in archive.holds if not _is_whole(folder / path, md5)]


def _is_whole(path: Path, md5: str | None) -> bool:
    """Return whether a regular file is there, with this md5 if it is known. Raises OSError if it cannot be read."""
    try:
        with open_regular(path) as file:
            digest = hashlib.md5(usedforsecurity=False)
            while md5 is not None and (chunk := file.read(_CHUNK)):
                digest.update(chunk)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, NotRegularError):
        return False
    return md5 is None or digest.hexdigest() == md5


def _install(archive: Archive, folder: Path, temporary: Path, progress: Progress) -> None:
    """Bring what the archive holds into `folder`, from an archive that lies there, or from the network.

    What is unpacked is a copy that nobody else can change between the check of its sum and the unpacking.
    """
    from torchvision.datasets.utils import extract_archive

    fetched = temporary / archive.name
    if _is_whole(folder / archive.name, archive.md5):
        with open_regular(folder / archive.name) as source, fetched.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
    if not _is_whole(fetched, archive.md5):
        _download(archive, fetched, progress)
    if archive.name.endswith(".gz"):
        extract_archive(str(fetched), str(temporary))
    for path, _ in archive.holds:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / path, folder / path)


def _download(archive: Archive, target: Path, progress: Progress) -> None:
    """Fetch the file from the first address that has it whole. Raises OSError with what each of them answered."""
    failures = []
    for url in archive.urls:
        try:
            _copy(url, target, progress)
        except (OSError, HTTPException) as error:
            reason = error.reason if type(error) is URLError else error
            failures.append(f"{url}: {reason or type(error).__name__}")
            continue
        if _is_whole(target, archive.md5):
            return
        failures.append(f"{url}: {target.stat().st_size:,} bytes that do not have the md5 {archive.md5}")
    raise OSError(", ".join(failures))


def _copy(url: str, target: Path, progress: Progress) -> None:
    def chunks(response: HTTPResponse) -> Iterator[bytes]:
        while chunk := response.read(_CHUNK):
            yield chunk

    request = Request(url, headers={"User-Agent": "effnet_builder"})
    with urlopen(request, timeout=_TIMEOUT) as response, target.open("wb") as file:
        total = -(-(response.length or 0) // _CHUNK)
        for chunk in progress(chunks(response), total, f"downloading {target.name}"):
            assert isinstance(chunk, bytes)
            file.write(chunk)
