"""Downloading the captions and splits of a data set, with resume and checksum."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dualpath.errors import DatasetError
from dualpath.types import Progress, no_progress
from dualpath.utils.text import error_reason

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60  # seconds
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE = 206, 416


@dataclass(frozen=True)
class RemoteFile:
    """A zip that can be downloaded.

    Attributes:
        url: its address.
        licence: a line for people.
        md5: published checksum. None: there is none, and the checksums inside the zip are used.
    """

    url: str
    licence: str
    md5: str | None = None

    @property
    def name(self) -> str:
        """Its file name.

        >>> RemoteFile("https://example.org/captions.zip", "CC BY 4.0").name
        'captions.zip'
        """
        return self.url.rsplit("/", 1)[-1]


def download_file(file: RemoteFile, folder: Path, progress: Progress = no_progress) -> Path:
    """Download a file into a folder, or continue an interrupted download.

    Args:
        progress: called with the number of bytes received since the last call.

    Raises:
        DatasetError: the address cannot be reached, or the content is not the published one.
    """
    from urllib.error import URLError

    target, partial = folder / file.name, folder / f"{file.name}.partial"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(file.url, partial, progress)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise DatasetError(
            f"{file.url}: cannot be downloaded ({error_reason(error)}); run the command again to "
            f"continue, or put the file into {folder} yourself"
        ) from error
    if not _is_published(file, partial):
        partial.unlink()
        raise DatasetError(
            f"{file.url}: the content is not the published file and was removed; try again later"
        )
    partial.replace(target)
    return target


def _fetch(url: str, path: Path, progress: Progress) -> None:
    """Append the rest of a remote file to ``path``."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen  # takes a tenth of a second to import

    size = path.stat().st_size if path.exists() else 0
    request = Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    try:
        response = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE:  # the file is complete
            return
        raise
    append = response.status == _PARTIAL_CONTENT
    with response, path.open("ab" if append else "wb") as out:
        length = int(response.headers.get("Content-Length", 0))
        received = 0
        while chunk := response.read(_CHUNK):
            out.write(chunk)
            received += len(chunk)
            progress(len(chunk))
    if received < length:
        raise ConnectionError(f"only {received:,} of {length:,} bytes were received")


def _is_published(file: RemoteFile, path: Path) -> bool:
    if file.md5 is not None:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "md5").hexdigest() == file.md5
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False
