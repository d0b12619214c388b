"""Fetching the captions and splits of a data set, with resume and checksum."""

import hashlib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dualpath.errors import DatasetError

_CHUNK = 1 << 20
_SECONDS = 60


@dataclass(frozen=True)
class RemoteFile:
    """A zip to fetch. ``md5`` none: none is published, and the zip's own checksums are trusted."""

    url: str
    licence: str
    md5: str | None = None

    @property
    def name(self) -> str:
        """Its name here."""
        return self.url.rsplit("/", 1)[-1]


_KARPATHY = RemoteFile(
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    "captions of Flickr8k, Flickr30k (research and education only) and MSCOCO (CC BY 4.0)",
)
_COCO_LICENCE = "COCO annotations, CC BY 4.0; the images have their own licences"
FILES: dict[tuple[str, str], RemoteFile] = {
    ("flickr8k", "karpathy"): _KARPATHY,
    ("flickr30k", "karpathy"): _KARPATHY,
    ("mscoco", "karpathy"): _KARPATHY,
    ("mscoco", "2014"): RemoteFile(
        "http://images.cocodataset.org/annotations/annotations_trainval2014.zip", _COCO_LICENCE
    ),
    ("mscoco", "2017"): RemoteFile(
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        _COCO_LICENCE,
        "f4bbac642086de4f52a3fdda2de5fa2c",
    ),
}


def download(
    file: RemoteFile, folder: Path, progress: Callable[[int], None] = lambda _: None
) -> Path:
    """Fetch a file into a folder, going on where an interrupted call stopped.

    Args:
        advance: called with the number of bytes that came since the last call.

    Raises:
        SourceError: the address cannot be reached, or what came is not what was published.
    """
    target, unfinished = folder / file.name, folder / f"{file.name}.partial"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(file.url, unfinished, progress)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DatasetError(
            f"{file.url}: cannot be fetched ({error}); try again (it goes on where it stopped), or "
            f"put the file into {folder} yourself"
        ) from error
    _check(file, unfinished)
    unfinished.replace(target)
    return target


def _fetch(url: str, path: Path, progress: Callable[[int], None]) -> None:
    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to come
            return
        raise
    with response, path.open("ab" if response.status == 206 else "wb") as out:
        length = int(response.headers.get("Content-Length", 0))
        came = 0
        while chunk := response.read(_CHUNK):
            out.write(chunk)
            came += len(chunk)
            progress(len(chunk))
    if came < length:
        raise ConnectionError(f"{came:,} of {length:,} bytes came")


def _check(file: RemoteFile, path: Path) -> None:
    if file.md5 is not None:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "md5").hexdigest()
        sound = digest == file.md5
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                sound = archive.testzip() is None
        except zipfile.BadZipFile:
            sound = False
    if not sound:
        path.unlink()
        raise DatasetError(f"{file.url}: what came is not the published file; it was removed")
