"""Files of published data sets: fetched once, and in their place only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import Request, urlopen

from ..config import of_system, printable
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


def fetch_missing(archives: Sequence[Archive], folder: Path, wanted: Wanted) -> bool:
    """Whether something had to be unpacked or downloaded into `folder`. Raises ConfigError where that fails.

    Several processes may do so at once: each works in a hidden folder of its own, and renames file by file.
    """
    try:
        missing = {archive: path for archive in archives for path in _not_whole(archive, folder)[:1]}
    except OSError as error:
        raise wanted.refuse(f"cannot be read: {error}") from None
    if not missing:
        return False
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
    from torchvision.datasets.utils import check_integrity

    return [path for path, md5 in archive.holds if not check_integrity(str(folder / path), md5)]


def _install(archive: Archive, folder: Path, temporary: Path, progress: Progress) -> None:
    """Bring what the archive holds into `folder`, from an archive that lies there, or from the network."""
    from torchvision.datasets.utils import check_integrity, extract_archive

    fetched = folder / archive.name
    if not check_integrity(str(fetched), archive.md5):
        fetched = temporary / archive.name
        _download(archive, fetched, progress)
    if archive.name.endswith(".gz"):
        extract_archive(str(fetched), str(temporary))
    for path, _ in archive.holds:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / path, folder / path)


def _download(archive: Archive, target: Path, progress: Progress) -> None:
    """The file, from the first address that has it whole. Raises OSError with what each of them answered."""
    from torchvision.datasets.utils import check_integrity

    failures = []
    for url in archive.urls:
        try:
            _copy(url, target, progress)
        except (OSError, HTTPException) as error:
            reason = error.reason if type(error) is URLError else error
            failures.append(f"{url}: {reason or type(error).__name__}")
            continue
        if check_integrity(str(target), archive.md5):
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
