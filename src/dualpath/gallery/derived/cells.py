"""Approximate search: an inverted file of 8-bit codes (faiss).

k-means divides the vectors into cells. A search compares the codes in the cells that are nearest to
the query, and the caller compares the best of them exactly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dualpath.types import IntArray, Mask, Vectors

_TRAINING_ROWS = 64  # per cell
_ITERATIONS = 8
_CHUNK = 10_000  # rows added at a time
_RECALL, _RECALL_TOP = 0.99, 10  # that the number of compared rows is chosen for


class Allowed(NamedTuple):
    """The rows that a search may return.

    Attributes:
        mask: (rows,).
        bits: the mask, packed for faiss. None: all rows.
        per_cell: number of these rows in each cell.
    """

    mask: Mask
    bits: npt.NDArray[np.uint8] | None
    per_cell: IntArray


class Cells:
    """The inverted file of some vectors.

    Attributes:
        coverage: number of rows that a search compares, at least.
    """

    def __init__(self, index: Any, coverage: int) -> None:
        self._index, self.coverage = index, coverage
        self._centres: Vectors = index.quantizer.reconstruct_n(0, index.nlist)
        self._cell_of_row = _read_cells(index)

    @classmethod
    def build(cls, vectors: Vectors) -> Iterator["Cells | None"]:
        """Build the inverted file of unit vectors, (rows, dim).

        Yields:
            None several times, so that the caller can stop, and finally the result.
        """
        faiss = _load_faiss()
        count = round(len(vectors) ** 0.5)
        index = faiss.index_factory(vectors.shape[1], f"IVF{count},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.cp.niter = _ITERATIONS
        index.cp.min_points_per_centroid = 1  # avoids a warning on standard output
        sample = np.random.default_rng(0).permutation(len(vectors))[: _TRAINING_ROWS * count]
        with _one_thread():
            index.train(vectors[np.sort(sample)])
            for start in range(0, len(vectors), _CHUNK):
                yield None
                index.add(np.ascontiguousarray(vectors[start : start + _CHUNK]))
        yield cls(index, len(vectors))

    @classmethod
    def open(cls, path: Path, coverage: int) -> "Cells":
        """Map a file of :meth:`save` into memory."""
        faiss = _load_faiss()
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), coverage)

    def save(self, path: Path) -> None:
        """Write the inverted file."""
        faiss = _load_faiss()
        faiss.write_index(self._index, str(path))

    def allow(self, mask: Mask) -> Allowed:
        """Prepare the rows that searches may return, given as a mask, (rows,)."""
        per_cell = np.bincount(self._cell_of_row[mask], minlength=len(self._centres))
        bits = None if mask.all() else np.packbits(mask, bitorder="little")
        return Allowed(mask, bits, per_cell)

    def candidates(self, queries: Vectors, count: int, allowed: Allowed, coverage: int) -> IntArray:
        """Return rows that are near to each query, (queries, count); -1 where there are no more.

        Cells are searched in the order of their nearness, until they contain ``coverage`` allowed
        rows. A filter thus enlarges the search as much as it needs, also where the allowed rows are
        far from the query.
        """
        faiss = _load_faiss()
        similarities = queries @ self._centres.T
        order = np.argsort(-similarities, axis=1)
        covered = np.cumsum(allowed.per_cell[order], axis=1)
        widths = 1 + (covered < min(coverage, covered[0, -1])).sum(axis=1)
        width = int(widths.max())
        cells = np.where(np.arange(width) < widths[:, None], order[:, :width], -1)
        nearness = similarities[np.arange(len(queries))[:, None], order[:, :width]]
        scores = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        parameters = faiss.SearchParametersIVF(nprobe=width)
        if allowed.bits is not None:
            selector = faiss.IDSelectorBitmap(allowed.bits)
            parameters = faiss.SearchParametersIVF(nprobe=width, sel=selector)
        queries, cells = np.ascontiguousarray(queries), np.ascontiguousarray(cells, np.int64)
        nearness = np.ascontiguousarray(nearness)
        pointer = faiss.swig_ptr
        with _one_thread():
            # The checked method of faiss takes no parameters.
            self._index.search_preassigned_c(
                len(queries),
                pointer(queries),
                count,
                pointer(cells),
                pointer(nearness),
                pointer(scores),
                pointer(rows),
                False,
                parameters,
            )
        return rows

    def tune(self, vectors: Vectors, samples: list[Vectors]) -> bool:
        """Choose ``coverage`` such that recall@10 of each sample of queries is at least 0.99.

        Returns:
            Whether comparing half of the rows is enough.
        """
        everything = self.allow(np.ones(len(vectors), bool))
        best = [_kth_best(queries, vectors) for queries in samples]
        self.coverage = 4 * len(vectors) // len(self._centres)
        while self.coverage <= len(vectors) // 2:
            recalls = []
            for queries, least in zip(samples, best, strict=True):
                rows = self.candidates(queries, 4 * _RECALL_TOP, everything, self.coverage)
                scores = np.matmul(vectors[rows], queries[:, :, None])[:, :, 0]
                found = (scores >= least[:, None] - 1e-6) & (rows >= 0)
                recalls.append(np.minimum(found.sum(axis=1) / _RECALL_TOP, 1).mean())
            if min(recalls, default=1) >= _RECALL:
                return True
            self.coverage *= 2
        return False


def _kth_best(queries: Vectors, vectors: Vectors) -> Vectors:
    """Return the tenth best score of each query, by comparing with every row."""
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), _CHUNK):
        scores = np.hstack([best, queries @ vectors[start : start + _CHUNK].T])
        best = -np.partition(-scores, _RECALL_TOP - 1, axis=1)[:, :_RECALL_TOP]
    least: Vectors = best.min(axis=1)
    return least


def _read_cells(index: Any) -> npt.NDArray[np.int32]:
    """Return the cell of each row."""
    faiss = _load_faiss()
    cells = np.empty(index.ntotal, np.int32)
    for cell in range(index.nlist):
        size = index.invlists.list_size(cell)
        if size:
            cells[faiss.rev_swig_ptr(index.invlists.get_ids(cell), size)] = cell
    return cells


def _load_faiss() -> Any:
    """Import faiss when it is needed. Its type hints do not describe its Python interface."""
    import faiss

    return faiss


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let faiss use the calling thread only: starting others takes longer than a search."""
    faiss = _load_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
