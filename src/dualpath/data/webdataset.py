"""Images inside tar archives (WebDataset shards), read without unpacking.

The path of such an image is written as if the archive were a folder: ``train-0001.tar/000123.jpg``.
The offsets of the members are read from an archive once. After that any member takes one read, so
training can read images in any order.
"""

import hashlib
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.data.formats import image_suffixes
from dualpath.data.json_values import parse_json
from dualpath.errors import ShardError
from dualpath.types import IntArray
from dualpath.utils.text import error_reason
from dualpath.utils.text_files import decode_text, split_lines

_IMAGE = "__image__"  # key of a row
_SPLITS = ("train", "val", "validation", "valid", "dev", "test")


def find_shards(folder: Path) -> list[Path]:
    """Return the ``.tar`` files of a folder at any depth, sorted."""
    return sorted(path for path in folder.rglob("*.tar") if path.is_file())


def shard_rows(folder: Path, shards: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield a manifest row for each sample that has an image.

    A sample is the files of one key, such as ``000123.jpg`` and ``000123.json``. Captions are read
    from its ``.txt`` (one per line), or from the key ``captions``, ``caption`` or ``text`` of its
    ``.json``; the other keys become columns of the row. Without a key ``split`` the split follows
    from the name of the shard, as in ``train-0001.tar`` or ``val/0001.tar``.

    Args:
        folder: the file names in the rows are relative to it.
        shards: archives below the folder.

    Raises:
        ShardError: an archive or a sample cannot be read.
    """
    for shard in shards:
        shard_name = shard.relative_to(folder).as_posix()
        split = next((word for word in re.split(r"[-_./]", shard_name) if word in _SPLITS), None)
        default = {} if split is None else {"split": split}
        try:
            with tarfile.open(shard, "r:") as archive:
                files = (member for member in archive if member.isfile())
                for key, members in groupby(files, key=_sample_key):
                    row = _read_sample(archive, list(members), f"{shard_name}/{key}")
                    if row is not None:
                        file_name = f"{shard_name}/{row.pop(_IMAGE)}"
                        yield {**default, **row, "file_name": file_name}
        except (tarfile.TarError, OSError) as error:
            raise ShardError(_damaged(shard, error)) from error


def read_member(path: Path, max_bytes: int = sys.maxsize) -> bytes | None:
    """Return the bytes of a file inside an archive. None: there is no such file.

    Raises:
        ValueError: it has more than ``max_bytes``.
    """
    found = _locate(path)
    if found is None:
        return None
    shard, offset, size = found
    if size > max_bytes:
        raise ValueError(f"larger than {max_bytes:,} bytes")
    with shard.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def member_state(path: Path) -> tuple[int, int] | None:
    """Return the size of a file inside an archive (bytes) and the archive's time (nanoseconds).

    None: there is no such file.
    """
    found = _locate(path)
    return None if found is None else (found[2], found[0].stat().st_mtime_ns)


def _sample_key(member: tarfile.TarInfo) -> str:
    """Return what the files of a sample have in common: the path up to the first dot of the name.

    >>> _sample_key(tarfile.TarInfo("v1.0/000123.seg.png"))
    'v1.0/000123'
    """
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _read_sample(
    archive: tarfile.TarFile, members: list[tarfile.TarInfo], name: str
) -> dict[str, Any] | None:
    """Return the row of a sample, with the image's name under ``_IMAGE``. None: it has no image."""
    row: dict[str, Any] = {}
    text: list[str] = []
    for member in members:
        suffix = Path(member.name).suffix.lower()
        if suffix in image_suffixes():
            row[_IMAGE] = member.name
        elif suffix in (".json", ".txt"):
            file = archive.extractfile(member)
            content = file.read() if file else b""
            try:
                if suffix == ".json":
                    row |= _json_object(content)
                else:
                    text = split_lines(decode_text(content))
            except ValueError as error:
                raise ShardError(
                    f"{name}{suffix}: cannot be read ({error_reason(error)})"
                ) from error
    if _IMAGE not in row:
        return None
    columns = [row.pop(name, None) for name in ("captions", "caption", "text")]
    captions = next((column for column in columns if column), text)
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise ShardError(f"{name}.json: captions must be a sentence or a list of sentences")
    row["captions"] = captions
    return row


def _json_object(content: bytes) -> dict[str, Any]:
    value = parse_json(decode_text(content))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004
    return value


def _damaged(shard: Path, error: Exception) -> str:
    return f"{shard}: not a tar archive, or cut short ({error_reason(error)})"


@dataclass(frozen=True)
class _MemberIndex:
    """The members of an archive: sorted hashes of their names, byte offsets and sizes."""

    hashes: npt.NDArray[np.uint64]
    offsets: IntArray
    sizes: IntArray


def _locate(path: Path) -> tuple[Path, int, int] | None:
    """Return the archive, the byte offset and the size of a file inside an archive."""
    for shard in path.parents:
        if shard.suffix == ".tar" and shard.is_file():
            index = _read_index(shard, shard.stat().st_mtime_ns)
            wanted = _name_hash(path.relative_to(shard).as_posix())
            found = int(np.searchsorted(index.hashes, wanted))
            if found < len(index.hashes) and index.hashes[found] == wanted:
                return shard, int(index.offsets[found]), int(index.sizes[found])
    return None


@cache
def _read_index(shard: Path, _modified: int) -> _MemberIndex:
    """Read the index of an archive; its modification time is a part of the key of the cache."""
    try:
        with tarfile.open(shard, "r:") as archive:
            found = [(_name_hash(m.name), m.offset_data, m.size) for m in archive if m.isfile()]
    except tarfile.TarError as error:
        raise OSError(_damaged(shard, error)) from error
    hashes = np.array([name_hash for name_hash, _, _ in found], np.uint64)
    order = np.argsort(hashes, kind="stable")
    ranges = np.array([member[1:] for member in found], np.int64).reshape(-1, 2)[order]
    return _MemberIndex(hashes[order], ranges[:, 0].copy(), ranges[:, 1].copy())


def _name_hash(name: str) -> np.uint64:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "big"))
