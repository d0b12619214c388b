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

_HASH_LINE = 33  # 32 hexadecimal digits and the end of the line


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
        self._rows = self._read_rows()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, content_hash: str) -> bool:
        return content_hash in self._rows

    def add(self, hashes: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        """Append vectors, (len(hashes), dim) float32; those already there are left as they are."""
        with self._lock:
            if self._hashes_path.exists():
                written = self._hashes_path.stat().st_size // _HASH_LINE
                self._rows = self._rows if written == len(self._rows) else self._read_rows()
            new = {h: i for i, h in enumerate(hashes) if h not in self._rows}
            with self._vectors_path.open("ab") as file:
                file.write(np.ascontiguousarray(vectors[list(new.values())], "<f4").tobytes())
                file.flush()
                os.fsync(file.fileno())
            with self._hashes_path.open("a", encoding="ascii") as file:
                file.write("".join(f"{content_hash}\n" for content_hash in new))
            for content_hash in new:
                self._rows[content_hash] = len(self._rows)

    def rows(self, hashes: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row of each hash, (len(hashes),) int64; ``KeyError`` if one is missing."""
        return np.array([self._rows[content_hash] for content_hash in hashes], dtype=np.int64)

    def vectors(self) -> npt.NDArray[np.float32]:
        """Return all rows, (rows, dim) float32, as a read-only memory map."""
        if not self._rows:
            return np.empty((0, self.dim), np.float32)
        return np.memmap(self._vectors_path, "<f4", mode="r", shape=(len(self._rows), self.dim))

    def _read_rows(self) -> dict[str, int]:
        if not self._hashes_path.exists():
            return {}
        lines = self._hashes_path.read_text(encoding="ascii").split()
        return {content_hash: row for row, content_hash in enumerate(lines)}

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
        return _HASH_LINE, 4 * self.dim
