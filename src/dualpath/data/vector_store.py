"""A file of vectors, each under the hash of what it was computed from.

It keeps what is dear to compute (backbone features, embeddings) between runs. Vectors are
appended to ``vectors.f32`` and then named in ``hashes.txt``; a run that is killed between the
two leaves a tail that the next opening cuts off, so filling can be interrupted at any moment.
Rows are read through a memory map, so a store may be larger than memory.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from dualpath.data.mapped import open_mapped

_HASH = "S32"  # hexadecimal digits
_LINE = 33  # with the end of the line
_ADDED = 100_000  # hashes that were added and are not sorted in yet
Hashes = npt.NDArray[np.bytes_]
Names = Sequence[str] | Hashes


class VectorStore:
    """Vectors of one dimension in a folder; safe for one process that adds and many that read.

    Args:
        folder: made when it is missing.
        dim: numbers in a vector.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.dim = dim
        self._hashes_path = folder / "hashes.txt"
        self._vectors_path = folder / "vectors.f32"
        self._lock = FileLock(folder / "lock")
        with self._lock:
            self._cut_off_unfinished()
        self._read_rows()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._added)

    def find(self, hashes: Names) -> npt.NDArray[np.int64]:
        """Return the row of each hash, (len(hashes),) int64; -1 where there is none."""
        wanted = np.asarray(hashes, _HASH)
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        if len(self._sorted):
            rows = np.where(self._sorted[places] == wanted, self._order[places], -1)
        else:
            rows = np.full(len(wanted), -1)
        for place in np.flatnonzero(rows < 0) if self._added else ():
            rows[place] = self._added.get(bytes(wanted[place]), -1)
        return rows

    def first_missing(self, hashes: Names) -> npt.NDArray[np.int64]:
        """Return where in ``hashes`` each that has no row stands first, in order."""
        wanted = np.asarray(hashes, _HASH)
        missing = np.flatnonzero(self.find(wanted) < 0)
        return missing[np.sort(np.unique(wanted[missing], return_index=True)[1])]

    def add(self, hashes: Names, vectors: npt.NDArray[np.float32]) -> None:
        """Append vectors, (len(hashes), dim) float32; those already there are left as they are."""
        with self._lock:
            written = self._hashes_path.stat().st_size // _LINE if self._hashes_path.exists() else 0
            if written != len(self) or len(self._added) > _ADDED:
                self._read_rows()
            names = np.asarray(hashes, _HASH)
            new = self.first_missing(names)
            with self._vectors_path.open("ab") as file:
                file.write(np.ascontiguousarray(vectors[new], "<f4").tobytes())
                file.flush()
                os.fsync(file.fileno())
            with self._hashes_path.open("ab") as file:
                file.write(b"".join(bytes(name) + b"\n" for name in names[new]))
            for name in names[new]:
                self._added[bytes(name)] = len(self)

    def rows(self, hashes: Names) -> npt.NDArray[np.int64]:
        """Return the row of each hash, (len(hashes),) int64; ``KeyError`` if one is missing."""
        rows = self.find(hashes)
        if (rows < 0).any():
            raise KeyError(hashes[int(np.argmin(rows))])
        return rows

    def vectors(self) -> npt.NDArray[np.float32]:
        """Return all rows, (rows, dim) float32, as a read-only memory map."""
        return open_mapped(self._vectors_path, "<f4", (len(self), self.dim))

    def _read_rows(self) -> None:
        """Read which hash has which row, sorted, so that a million take 40 MB."""
        content = self._hashes_path.read_bytes() if self._hashes_path.exists() else b""
        hashes = np.frombuffer(content, np.dtype([("hash", _HASH), ("end", "S1")]))["hash"]
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._added: dict[bytes, int] = {}

    def _cut_off_unfinished(self) -> None:
        sizes = [p.stat().st_size if p.exists() else 0 for p in self._paths]
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
