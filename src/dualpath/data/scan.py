"""Scanning image files: which of them can be decoded, and the hash of each."""

import itertools
import os
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualpath.data.images import image_key, image_state, read_image_bytes
from dualpath.errors import ImageError
from dualpath.types import Mask, Progress, no_progress
from dualpath.utils.text import first_n_lines

_COMMIT_EVERY = 500  # images
_TABLE = "valid_2"  # of the cache; another table for another way to compute keys
_SHOWN = 10  # broken images in a message


@dataclass(frozen=True)
class ImageScan:
    """The result of a scan.

    Attributes:
        hashes: hash of the bytes of each file, (files,) of 32 hexadecimal digits, empty where the
            file cannot be decoded.
        broken: the files that cannot be decoded, with the reason.
    """

    hashes: npt.NDArray[np.bytes_]
    broken: dict[Path, str]

    @property
    def is_valid(self) -> Mask:
        """Which files can be decoded, (files,)."""
        valid: Mask = self.hashes != b""
        return valid


def scan_images(
    paths: Sequence[Path], cache_folder: Path, progress: Progress = no_progress
) -> ImageScan:
    """Decode every image once and hash its bytes.

    Results are cached in ``cache_folder`` under path, size and modification time, so a second scan
    reads only new and changed files.

    Args:
        progress: called with the number of files scanned since the last call.
    """
    cache_folder.mkdir(parents=True, exist_ok=True)
    hashes = np.zeros(len(paths), "S32")
    broken: dict[Path, str] = {}
    remaining = iter(paths)
    with (
        closing(sqlite3.connect(cache_folder / "images.sqlite", timeout=60)) as cache,
        ThreadPoolExecutor() as pool,
    ):
        cache.execute(
            f"create table if not exists {_TABLE} "
            "(path text primary key, size integer, modified integer, hash text)"
        )
        for start in range(0, len(paths), _COMMIT_EVERY):
            chunk = list(itertools.islice(remaining, _COMMIT_EVERY))
            results = _scan_chunk(chunk, cache, pool)
            for index, (path, result) in enumerate(zip(chunk, results, strict=True), start=start):
                if isinstance(result, ImageError):
                    broken[path] = str(result)
                else:
                    hashes[index] = result
            progress(len(chunk))
    return ImageScan(hashes=hashes, broken=broken)


def broken_images_message(broken: dict[Path, str]) -> str:
    """Return a message that lists broken images, one a line and ten at most, and what to do."""
    count = "1 image is" if len(broken) == 1 else f"{len(broken):,} images are"
    title = f"{count} broken; repair or remove them, or add --skip-broken to leave them out:"
    return f"{title}\n{first_n_lines(list(broken.values()), _SHOWN)}"


def _scan_chunk(
    paths: list[Path], cache: sqlite3.Connection, pool: ThreadPoolExecutor
) -> list[str | ImageError]:
    """Return the hash of each file, from the cache if it is unchanged, or its error."""
    names = [_cache_name(path) for path in paths]
    marks = ", ".join("?" * len(names))
    rows = cache.execute(f"select * from {_TABLE} where path in ({marks})", names)
    cached = {name: values for name, *values in rows}
    states = [image_state(path) or (-1, -1) for path in paths]
    results: dict[int, str | ImageError] = {}
    for index, (name, state) in enumerate(zip(names, states, strict=True)):
        *cached_state, content_hash = cached.get(name, (None, None))
        if tuple(cached_state) == state:
            results[index] = content_hash
    new = [index for index in range(len(paths)) if index not in results]
    for index, result in zip(new, pool.map(_scan_file, [paths[i] for i in new]), strict=True):
        results[index] = result
        if not isinstance(result, ImageError):
            cache.execute(
                f"insert or replace into {_TABLE} values (?, ?, ?, ?)",
                (names[index], *states[index], result),
            )
    cache.commit()
    return [results[index] for index in range(len(paths))]


def _cache_name(path: Path) -> str:
    """Return the name of a file in the cache, which may be a link to itself or no valid name."""
    try:
        name = os.path.realpath(path)
    except ValueError:
        name = str(path)
    return name.encode("utf-8", "backslashreplace").decode()


def _scan_file(path: Path) -> str | ImageError:
    """Return the hash of a file that can be decoded, or what is wrong with it."""
    try:
        return image_key(read_image_bytes(path), str(path))
    except ImageError as error:
        return error
