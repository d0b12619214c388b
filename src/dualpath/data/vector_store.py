"""A file of vectors, each stored under the hash of its source.

It caches vectors that are expensive to compute (backbone features, embeddings) between runs.
:meth:`VectorStore.add` appends vectors to ``vectors.f32`` and then their hashes to ``hashes.txt``.
If a run is killed between the two, the next run cuts off the incomplete end, so adding can be
interrupted at any moment. Vectors are read through a memory map, so a store may be larger than
memory.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from dualpath.data.memmap import open_memmap
from dualpath.types import IntArray, Vectors

Hashes = npt.NDArray[np.bytes_]  # (n,) "S32"
HashesLike = Sequence[str] | Hashes  # of 32 hexadecimal digits

_HASH = "S32"
_LINE = 33  # bytes of a line of hashes.txt
_MAX_UNSORTED = 100_000  # added hashes that are looked up in a dict before they are sorted


class VectorStore:
    """Vectors of one dimension in a folder.

    Safe for one process that adds and any number of processes that read.

    Args:
        folder: created if it is missing.
        dim: length of a vector.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.dim = dim
        self._hashes_path = folder / "hashes.txt"
        self._vectors_path = folder / "vectors.f32"
        self._lock = FileLock(folder / "lock")
        with self._lock:
            self._cut_off_incomplete()
        self._read_rows()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._added)

    def find(self, hashes: HashesLike) -> IntArray:
        """Return the row of each hash, (hashes,) int64; -1 for a hash that is not stored."""
        wanted = np.asarray(hashes, _HASH)
        nearest = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        if len(self._sorted):
            rows = np.where(self._sorted[nearest] == wanted, self._order[nearest], -1)
        else:
            rows = np.full(len(wanted), -1)
        for i in np.flatnonzero(rows < 0) if self._added else ():
            rows[i] = self._added.get(bytes(wanted[i]), -1)
        return rows

    def first_missing(self, hashes: HashesLike) -> IntArray:
        """Return the positions in ``hashes`` of those that are not stored, in order.

        Of equal hashes only the first position is returned.
        """
        wanted = np.asarray(hashes, _HASH)
        missing = np.flatnonzero(self.find(wanted) < 0)
        return missing[np.sort(np.unique(wanted[missing], return_index=True)[1])]

    def add(self, hashes: HashesLike, vectors: Vectors) -> None:
        """Append vectors, (hashes, dim) float32. Vectors whose hash is stored are skipped."""
        with self._lock:
            written = self._hashes_path.stat().st_size // _LINE if self._hashes_path.exists() else 0
            if written != len(self) or len(self._added) > _MAX_UNSORTED:
                self._read_rows()
            added = np.asarray(hashes, _HASH)
            new = self.first_missing(added)
            with self._vectors_path.open("ab") as file:
                file.write(np.ascontiguousarray(vectors[new], "<f4").tobytes())
                file.flush()
                os.fsync(file.fileno())
            with self._hashes_path.open("ab") as file:
                file.write(b"".join(bytes(name) + b"\n" for name in added[new]))
            for name in added[new]:
                self._added[bytes(name)] = len(self)

    def rows(self, hashes: HashesLike) -> IntArray:
        """Return the row of each hash, (hashes,) int64.

        Raises:
            KeyError: a hash is not stored.
        """
        rows = self.find(hashes)
        if (rows < 0).any():
            raise KeyError(hashes[int(np.argmin(rows))])
        return rows

    def vectors(self) -> Vectors:
        """Return all vectors, (rows, dim) float32, as a read-only memory map."""
        return open_memmap(self._vectors_path, "<f4", (len(self), self.dim))

    def _read_rows(self) -> None:
        """Read the row of each hash into sorted arrays, which take 40 MB for a million rows."""
        content = self._hashes_path.read_bytes() if self._hashes_path.exists() else b""
        hashes = np.frombuffer(content, np.dtype([("hash", _HASH), ("end", "S1")]))["hash"]
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._added: dict[bytes, int] = {}

    def _cut_off_incomplete(self) -> None:
        """Shorten both files to the rows that are complete in both."""
        sizes = [path.stat().st_size if path.exists() else 0 for path in self._paths]
        complete = min(size // line for size, line in zip(sizes, self._lines, strict=True))
        for path, size, line in zip(self._paths, sizes, self._lines, strict=True):
            if size > complete * line:
                os.truncate(path, complete * line)

    @property
    def _paths(self) -> tuple[Path, Path]:
        return self._hashes_path, self._vectors_path

    @property
    def _lines(self) -> tuple[int, int]:
        return _LINE, 4 * self.dim
