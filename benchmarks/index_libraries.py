"""Measure libraries of vector indices: recall, time to build, latency, memory, filters, changes.

    python benchmarks/index_libraries.py
    python benchmarks/index_libraries.py --vectors captions.npy --engines faiss-ivf usearch

Without --vectors, unit vectors are drawn around random centres. The last --queries vectors are the
queries. Each engine runs in a process of its own, with one thread. Recall@10 is measured against a
comparison with every row. The filters leave 1 row in 10, 1 in 100, and 20 rows.

pip install faiss-cpu usearch chroma-hnswlib (hnswlib itself has no wheels)
"""

# ruff: noqa: E402
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import psutil
from rich.console import Console
from rich.table import Table

from common import command_line
from dualpath.types import IntArray, Mask, Vectors
from gallery_engines import random_vectors

TOP = 10
BATCH = 32
FILTERS = (10, 100, None)  # one row in so many; None: 20 rows


class Engine(Protocol):
    """An index of vectors."""

    def __init__(self, vectors: Vectors) -> None:
        """Build the index."""

    def search(self, queries: Vectors, allowed: Mask | None) -> IntArray | None:
        """Return the nearest rows of each query. None: the library has no such filter."""

    def save_and_map(self, path: Path) -> bool:
        """Write the index and open the file as a memory map. Return whether it can."""

    def add(self, vectors: Vectors) -> None:
        """Add rows."""

    def delete(self, rows: IntArray) -> None:
        """Delete rows."""


class FaissIvf:
    """faiss: inverted file of 8-bit codes; the candidates are compared exactly."""

    probes, refine = 24, 4

    def __init__(self, vectors: Vectors) -> None:
        import faiss

        self.faiss, self.vectors = faiss, vectors
        cells = int(2 * len(vectors) ** 0.5)
        self.index: Any = faiss.index_factory(
            vectors.shape[1], f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT
        )
        self.index.cp.max_points_per_centroid, self.index.cp.niter = 64, 8
        self.index.train(vectors)
        self.index.add(vectors)

    def search(self, queries: Vectors, allowed: Mask | None) -> IntArray | None:
        selector, probes = None, self.probes
        if allowed is not None:
            selector = self.faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            probes *= 4
        parameters = self.faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        _, rows = self.index.search(queries, self.refine * TOP, params=parameters)
        best = np.empty((len(queries), TOP), np.int64)
        for number, (query, candidates) in enumerate(zip(queries, rows, strict=True)):
            scores = np.where(candidates >= 0, self.vectors[candidates] @ query, -2)
            best[number] = candidates[np.argsort(-scores)[:TOP]]
        return best

    def save_and_map(self, path: Path) -> bool:
        self.faiss.write_index(self.index, str(path))
        self.index = self.faiss.read_index(str(path), self.faiss.IO_FLAG_MMAP_IFC)
        return True

    def add(self, vectors: Vectors) -> None:
        self.index.add(vectors)

    def delete(self, rows: IntArray) -> None:
        self.index.remove_ids(rows)


class FaissHnsw(FaissIvf):
    """faiss: HNSW over 8-bit codes; the candidates are compared exactly."""

    def __init__(self, vectors: Vectors) -> None:
        import faiss

        self.faiss, self.vectors = faiss, vectors
        self.index = faiss.index_factory(vectors.shape[1], "HNSW16,SQ8", faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = 80
        self.index.train(vectors)
        self.index.add(vectors)

    def search(self, queries: Vectors, allowed: Mask | None) -> IntArray | None:
        selector = None
        if allowed is not None:
            selector = self.faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        parameters = self.faiss.SearchParametersHNSW(sel=selector, efSearch=100)
        _, rows = self.index.search(queries, TOP, params=parameters)
        return np.asarray(rows)

    def delete(self, rows: IntArray) -> None:
        raise NotImplementedError


class FaissFlat(FaissIvf):
    """faiss: 8-bit codes of all rows; the candidates are compared exactly."""

    def __init__(self, vectors: Vectors) -> None:
        import faiss

        self.faiss, self.vectors = faiss, vectors
        self.index = faiss.index_factory(vectors.shape[1], "SQ8", faiss.METRIC_INNER_PRODUCT)
        self.index.train(vectors)
        self.index.add(vectors)

    def search(self, queries: Vectors, allowed: Mask | None) -> IntArray | None:
        selector = None
        if allowed is not None:
            selector = self.faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        _, rows = self.index.search(queries, TOP, params=self.faiss.SearchParameters(sel=selector))
        return np.asarray(rows)


class Usearch:
    """usearch: HNSW over 8-bit vectors."""

    def __init__(self, vectors: Vectors) -> None:
        from usearch.index import Index

        self.index: Any = Index(
            ndim=vectors.shape[1], metric="cos", dtype="i8", expansion_add=80, expansion_search=100
        )
        self.size = len(vectors)
        self.index.add(np.arange(self.size), vectors, threads=1)

    def search(self, queries: Vectors, allowed: Mask | None) -> IntArray | None:
        if allowed is not None:
            return None
        matches = self.index.search(queries, TOP, threads=1)
        return np.asarray(matches.keys, np.int64).reshape(len(queries), -1)

    def save_and_map(self, path: Path) -> bool:
        self.index.save(str(path))
        self.index = self.index.restore(str(path), view=True)
        return True

    def add(self, vectors: Vectors) -> None:
        self.index.add(np.arange(self.size, self.size + len(vectors)), vectors, threads=1)

    def delete(self, rows: IntArray) -> None:
        self.index.remove(rows)


class Hnswlib:
    """hnswlib: HNSW over float32 vectors."""

    def __init__(self, vectors: Vectors) -> None:
        import hnswlib

        self.size = len(vectors)
        self.index: Any = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self.index.init_index(2 * self.size, ef_construction=80, M=16)
        self.index.set_ef(100)
        self.index.set_num_threads(1)
        self.index.add_items(vectors, np.arange(self.size))

    def search(self, queries: Vectors, allowed: Mask | None) -> IntArray | None:
        chosen = None if allowed is None else lambda row: bool(allowed[row])
        try:
            rows, _ = self.index.knn_query(queries, TOP, filter=chosen)
        except RuntimeError:  # fewer than TOP rows were found
            return None
        return np.asarray(rows, np.int64)

    def save_and_map(self, path: Path) -> bool:
        self.index.save_index(str(path))
        return False

    def add(self, vectors: Vectors) -> None:
        self.index.add_items(vectors, np.arange(self.size, self.size + len(vectors)))

    def delete(self, rows: IntArray) -> None:
        for row in rows.tolist():
            self.index.mark_deleted(row)


class Numpy:
    """numpy: one product of the queries with all rows, in float32."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors: npt.NDArray[Any] = vectors

    def search(self, queries: Vectors, allowed: Mask | None) -> IntArray | None:
        if allowed is not None:
            rows = np.flatnonzero(allowed)
            scores = queries @ self.vectors[rows].T
        else:
            rows = np.arange(len(self.vectors))
            scores = self._scores(queries)
        top = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
        return rows[top]

    def _scores(self, queries: Vectors) -> Vectors:
        return queries @ self.vectors.T

    def save_and_map(self, path: Path) -> bool:
        np.save(path, self.vectors)
        self.vectors = np.load(f"{path}.npy", mmap_mode="r")
        return True

    def add(self, vectors: Vectors) -> None:
        self.vectors = np.concatenate([self.vectors, vectors])

    def delete(self, rows: IntArray) -> None:
        self.vectors = np.delete(self.vectors, rows, axis=0)


class NumpyHalf(Numpy):
    """numpy: rows in float16, converted a part at a time."""

    kind, scale = np.float16, 1.0

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = (vectors * self.scale).astype(self.kind)

    def _scores(self, queries: Vectors) -> Vectors:
        parts = range(0, len(self.vectors), 4096)
        return np.concatenate(
            [queries @ self.vectors[s : s + 4096].astype(np.float32).T for s in parts], axis=1
        )


class NumpyByte(NumpyHalf):
    """numpy: rows in int8, converted a part at a time."""

    kind, scale = np.int8, 500.0


ENGINES: dict[str, type[Engine]] = {
    "faiss-ivf": FaissIvf,
    "faiss-hnsw": FaissHnsw,
    "faiss-flat": FaissFlat,
    "usearch": Usearch,
    "hnswlib": Hnswlib,
    "numpy-fp32": Numpy,
    "numpy-fp16": NumpyHalf,
    "numpy-int8": NumpyByte,
}


def exact(vectors: Vectors, queries: Vectors, allowed: Mask | None) -> IntArray:
    """Return the nearest rows of each query by comparing with every row."""
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    scores = queries @ vectors[rows].T
    return rows[np.argsort(-scores, axis=1)[:, :TOP]]


def recall(found: IntArray, right: IntArray) -> float:
    """Return the mean share of the right rows that were found."""
    pairs = zip(found, right, strict=True)
    return statistics.mean(len(set(f) & set(r)) / len(r) for f, r in pairs)


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Return the median milliseconds of a call."""
    work()
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        durations.append(1000 * (time.perf_counter() - start))
    return statistics.median(durations)


def measure(name: str, vectors: Vectors, queries: Vectors) -> list[str]:
    """Return a row of the table."""
    process = psutil.Process()
    before, start = process.memory_info().rss, time.process_time()
    engine = ENGINES[name](vectors)
    building = time.process_time() - start
    memory = (process.memory_info().rss - before) / 2**20
    found = engine.search(queries, None)
    if found is None:
        raise SystemExit(f"{name}: found nothing")
    cells = [name, f"{recall(found, exact(vectors, queries, None)):.3f}", f"{building:.1f}"]
    single = iter(range(10**9))
    one = milliseconds(
        lambda: engine.search(queries[(n := next(single) % len(queries)) : n + 1], None), 100
    )
    many = milliseconds(lambda: engine.search(queries[:BATCH], None), 10)
    cells += [f"{one:.2f}", f"{many:.1f}", f"{memory:.0f}"]
    generator = np.random.default_rng(3)
    for share in FILTERS:
        allowed = generator.random(len(vectors)) < 1 / (share or 1)
        if share is None:
            allowed = np.zeros(len(vectors), bool)
            allowed[generator.choice(len(vectors), 20, replace=False)] = True
        found = engine.search(queries, allowed)
        if found is None:
            cells.append("-")
            continue
        right = recall(found, exact(vectors, queries, allowed))
        taken = milliseconds(lambda mask=allowed: engine.search(queries[:1], mask), 10)  # type: ignore[misc]
        cells.append(f"{right:.3f}, {taken:.2f} ms")
    with tempfile.TemporaryDirectory() as folder:
        cells.append("yes" if engine.save_and_map(Path(folder) / "index") else "no")
        mapped = engine.search(queries, None)
        if mapped is None or recall(mapped, exact(vectors, queries, None)) < 0.5:
            cells[-1] += ", wrong"
        engine = ENGINES[name](vectors[:2000])
        changes = []
        for change in (
            lambda: engine.add(vectors[2000:3000]),
            lambda: engine.delete(np.arange(1000)),
        ):
            start = time.perf_counter()
            try:
                change()
                changes.append(f"{1000 * (time.perf_counter() - start):.0f}")
            except NotImplementedError:
                changes.append("-")
        cells.append("/".join(changes))
    return cells


def load(options: argparse.Namespace) -> tuple[Vectors, Vectors]:
    """Return vectors and queries."""
    if options.vectors:
        vectors = np.load(options.vectors)
        rows = min(options.rows, len(vectors) - options.queries)
        return vectors[:rows], vectors[-options.queries :]
    centres = max(1, options.rows // 1000)
    chunks = random_vectors(options.rows, options.dim, centres, seed=1)
    return np.concatenate(list(chunks)), next(
        random_vectors(options.queries, options.dim, centres, seed=2)
    )


def run(name: str, options: argparse.Namespace) -> list[str]:
    """Measure one engine. It is called in a process of its own."""
    return measure(name, *load(options))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--dim", type=int, default=512, help="default: 512")
    parser.add_argument("--queries", type=int, default=300, help="default: 300")
    parser.add_argument("--vectors", type=Path, help="unit vectors, a .npy file; default: random")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    options = parser.parse_args()
    table = Table(title=f"{options.rows:,} x {options.dim}, {options.vectors or 'random centres'}")
    for column in (
        "engine",
        "recall@10",
        "build CPU s",
        "1 query ms",
        "32 queries ms",
        "MiB",
        "filter 1/10",
        "filter 1/100",
        "filter 20 rows",
        "mmap",
        "add/delete 1,000 ms",
    ):
        table.add_column(column, justify="left" if column == "engine" else "right")
    context = multiprocessing.get_context("spawn")
    for name in options.engines:
        with context.Pool(1) as pool:
            table.add_row(*pool.apply(run, (name, options)))
            Console(stderr=True).print(f"{name}: done")
    Console(soft_wrap=True, width=200).print(table)


if __name__ == "__main__":
    main()
