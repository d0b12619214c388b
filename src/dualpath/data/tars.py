"""Pictures inside of tar archives (WebDataset shards), read in place.

A picture is named as if the archive were a folder, ``train-0001.tar/000123.jpg``. Each archive is
read through once for where its members begin; after that any of them is one read away, so shards
are trained on in any order without being unpacked.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_SPLITS = ("train", "val", "validation", "valid", "dev", "test")


class ShardError(ValueError):
    """An archive, or a sample in it, that cannot be read; the message names it."""


def find_shards(folder: Path) -> list[Path]:
    """Return the ``.tar`` files of a folder at any depth, sorted."""
    return sorted(path for path in folder.rglob("*.tar") if path.is_file())


def shard_rows(folder: Path, shards: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield a manifest row for each sample of shards that has a picture.

    Captions stand in the sample's ``.txt`` (one a line), or in its ``.json`` as ``captions``,
    ``caption`` or ``text`` beside whatever else is told. A split that is not told is read off the
    shard's name, ``train-0001.tar`` or ``val/0001.tar``.

    Raises:
        ShardError: an archive or a sample cannot be read.
    """
    for shard in shards:
        place = shard.relative_to(folder).as_posix()
        split = next((word for word in re.split(r"[-_./]", place) if word in _SPLITS), None)
        try:
            with tarfile.open(shard, "r:") as archive:
                files = (member for member in archive if member.isfile())
                for key, members in groupby(files, key=_key):
                    row = _sample(archive, list(members), f"{place}/{key}")
                    if row is not None:
                        name = f"{place}/{row.pop('__picture__')}"
                        told = {"split": split} if split is not None else {}
                        yield {**told, **row, "file_name": name}
        except (tarfile.TarError, OSError) as error:
            raise ShardError(f"{shard}: not a tar archive, or cut short ({error})") from error


def read_member(path: Path) -> bytes | None:
    """Return the bytes of a file inside of an archive; none if there is no such file."""
    found = _locate(path)
    if found is None:
        return None
    shard, offset, size = found
    with shard.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def member_state(path: Path) -> tuple[int, int] | None:
    """Return the size of a file inside of an archive and when that changed, in nanoseconds."""
    found = _locate(path)
    return None if found is None else (found[2], found[0].stat().st_mtime_ns)


def _key(member: tarfile.TarInfo) -> str:
    """What the files of a sample share: all before the first full stop of the name."""
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _sample(
    archive: tarfile.TarFile, members: list[tarfile.TarInfo], name: str
) -> dict[str, Any] | None:
    row: dict[str, Any] = {}
    text: list[str] = []
    for member in members:
        suffix = Path(member.name).suffix.lower()
        if suffix in PICTURE_SUFFIXES:
            row["__picture__"] = member.name
        elif suffix in (".json", ".txt"):
            file = archive.extractfile(member)
            content = file.read() if file else b""
            try:
                if suffix == ".json":
                    row |= dict(json.loads(content))
                else:
                    text = content.decode("utf-8").splitlines()
            except ValueError as error:
                raise ShardError(f"{name}{suffix}: cannot be read ({error})") from error
    if "__picture__" not in row:
        return None
    told = [row.pop(column, None) for column in ("captions", "caption", "text")]
    captions = next((column for column in told if column), text)
    row["captions"] = [captions] if isinstance(captions, str) else list(captions)
    return row


@dataclass(frozen=True)
class _Index:
    """Where the members of an archive are, by the sorted hashes of their names."""

    hashes: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def _locate(path: Path) -> tuple[Path, int, int] | None:
    for shard in path.parents:
        if shard.suffix == ".tar" and shard.is_file():
            index = _index(shard, shard.stat().st_mtime_ns)
            wanted = _hash(path.relative_to(shard).as_posix())
            place = int(np.searchsorted(index.hashes, wanted))
            if place < len(index.hashes) and index.hashes[place] == wanted:
                return shard, int(index.offsets[place]), int(index.sizes[place])
    return None


@cache
def _index(shard: Path, _changed: int) -> _Index:
    try:
        with tarfile.open(shard, "r:") as archive:
            found = [(_hash(m.name), m.offset_data, m.size) for m in archive if m.isfile()]
    except tarfile.TarError as error:
        raise OSError(f"{shard}: not a tar archive, or cut short ({error})") from error
    hashes = np.array([hashed for hashed, _, _ in found], np.uint64)
    order = np.argsort(hashes, kind="stable")
    places = np.array([place[1:] for place in found], np.int64).reshape(-1, 2)[order]
    return _Index(hashes[order], places[:, 0].copy(), places[:, 1].copy())


def _hash(name: str) -> np.uint64:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "big"))
