"""Measure the derived index of a gallery: building, recall, latency, memory.

    python benchmarks/derived_index.py --rows 1000000 --out index
    python benchmarks/derived_index.py --vectors captions.parquet --queries-from images.parquet \
        --out index

The second command takes vectors of a model, which `dualpath embed` has written.
Writes the files that a gallery with random vectors would have, without the gallery. Recall@10 is
measured against a comparison with every row; filters leave 1 row in 10, 1 in 100, and 20 rows.
"""

import argparse
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from common import command_line
from dualpath.gallery.derived import files
from dualpath.gallery.derived.cells import Cells
from dualpath.gallery.derived.part import Part
from dualpath.gallery.derived.view import View
from dualpath.gallery.filters import Comparison, Condition
from dualpath.gallery.schema import IMAGES
from dualpath.types import Vectors
from gallery_engines import random_vectors

TOP = 10
_CHUNK = 20_000  # rows
_SAMPLE = 64  # queries with which the number of compared rows is chosen
LINE = b'{"id": "%032x", "path": "/images/%09d.jpg", "name": "%09d.jpg"}'
FILTERS: dict[str, tuple[Condition | None, int]] = {
    "none": (None, 1),
    "1 row in 10": (Comparison("field_0", "=", 0.0), 10),
    "1 row in 100": (Comparison("field_1", "=", 0.0), 100),
    "20 rows": (Comparison("field_2", "<", 20.0), 0),
}


def parts(options: argparse.Namespace) -> Iterator[Part]:
    """Yield the rows, a part at a time. Fields contain the number of a row modulo 10, and so on."""
    start = 0
    chunks = (
        np.array_split(options.vectors, math.ceil(len(options.vectors) / _CHUNK))
        if options.vectors is not None
        else random_vectors(options.rows, options.dim, options.centres, seed=1)
    )
    for chunk in chunks:
        numbers = np.arange(start, start + len(chunk))
        lines = b"".join(LINE % (n, n, n) for n in numbers.tolist())
        length = len(LINE % (0, 0, 0))
        columns = {
            "field_0": numbers % 10.0,
            "field_1": numbers % 100.0,
            "field_2": numbers.astype(float),
        }
        yield Part(
            numbers.astype(np.uint64),
            chunk,
            np.frombuffer(lines, np.uint8),
            np.arange(1, len(chunk) + 1) * length,
            {name: pa.chunked_array([pa.array(column)]) for name, column in columns.items()},
        )
        start += len(chunk)


def read_vectors(path: Path) -> Vectors:
    """Read the vectors that ``dualpath embed`` has written, (rows, dim) float32."""
    column = pq.read_table(path, columns=["vector"]).column(0).combine_chunks()
    vectors: Vectors = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32)
    return vectors


def build(options: argparse.Namespace, queries: Vectors) -> None:
    with files.new_folder(options.out, IMAGES) as folder:
        for _ in files.write_part(folder, parts(options), options.dim):
            pass
        vectors = files.open_part(folder, options.dim).vectors
        cells = [step for step in Cells.build(vectors) if step is not None][-1]
        cells.tune(vectors, [queries])
        files.write_header(folder, "state", options.dim, len(vectors), cells)


def measure(view: View, queries: Vectors, name: str) -> list[str]:
    """Return a row of the table."""
    where, step = FILTERS[name]
    rows = np.arange(0, len(view.base), step) if step else np.arange(20)
    best = np.full((len(queries), 0), 0, np.float32)
    for start in range(0, len(rows), 20_000):
        scores = np.hstack([best, queries @ view.base.vectors[rows[start : start + 20_000]].T])
        best = -np.partition(-scores, TOP - 1, axis=1)[:, :TOP]
    least = best.min(axis=1)
    found = view.search(queries, TOP, where)
    recall = np.mean(
        [
            sum(score >= worst - 1e-6 for _, score in hits) / TOP
            for hits, worst in zip(found, least, strict=True)
        ]
    )
    single, many = [], []
    for number in range(len(queries)):
        start_time = time.perf_counter()
        view.search(queries[number : number + 1], TOP, where)
        single.append(1000 * (time.perf_counter() - start_time))
    for start in range(0, len(queries) - 31, 32):
        start_time = time.perf_counter()
        view.search(queries[start : start + 32], TOP, where)
        many.append(1000 * (time.perf_counter() - start_time))
    single.sort()
    return [
        name,
        f"{recall:.3f}",
        f"{statistics.median(single):.2f}",
        f"{single[int(0.99 * len(single))]:.2f}",
        f"{statistics.median(many):.1f}",
    ]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="default: 1000000")
    parser.add_argument("--dim", type=int, default=512, help="default: 512")
    parser.add_argument("--centres", type=int, help="default: one per thousand rows")
    parser.add_argument("--queries", type=int, default=300, help="default: 300")
    parser.add_argument("--out", type=Path, required=True, help="folder; deleted first")
    parser.add_argument("--vectors", type=read_vectors, help="Parquet file of the rows")
    parser.add_argument("--queries-from", type=read_vectors, help="Parquet file of the queries")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    if options.vectors is not None:
        options.rows, options.dim = options.vectors.shape
        order = np.random.default_rng(0).permutation(len(options.queries_from))
        shuffled = options.queries_from[order]
        sample, queries = shuffled[:_SAMPLE], shuffled[_SAMPLE : _SAMPLE + options.queries]
    else:
        options.centres = options.centres or max(1, options.rows // 1000)
        queries = next(random_vectors(options.queries, options.dim, options.centres, seed=2))
        sample = next(random_vectors(_SAMPLE, options.dim, options.centres, seed=3))
    start, cpu = time.perf_counter(), time.process_time()
    build(options, sample)
    built, cpu = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    view = files.open_view(options.out, IMAGES)
    if view is None or view.cells is None:
        raise SystemExit("the index cannot be opened")
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    table = Table(
        title=f"{options.rows:,} x {options.dim}: built in {built:.0f} s ({cpu:.0f} CPU s), opened "
        f"in {time.perf_counter() - start:.1f} s, {size / 2**30:.2f} GiB on disk, "
        f"{view.cells.coverage:,} rows compared, {os.cpu_count()} cores"
    )
    for column in ("filter", f"recall@{TOP}", "p50 ms", "p99 ms", "32 queries ms"):
        table.add_column(column, justify="left" if column == "filter" else "right")
    for name in FILTERS:
        table.add_row(*measure(view, queries, name))
    memory = psutil.Process().memory_info()
    console = Console(soft_wrap=True, width=120)
    console.print(table)
    console.print(
        f"memory: {(memory.rss - memory.shared) / 2**20:,.0f} MiB of its own, "
        f"{memory.shared / 2**20:,.0f} MiB of mapped files, which the system can drop"
    )


if __name__ == "__main__":
    main()
