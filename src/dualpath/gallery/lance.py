"""The embedded store: LanceDB in a folder."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
from filelock import FileLock
from lancedb.index import BTree, IvfSq

from dualpath.gallery.errors import GalleryError
from dualpath.gallery.filters import Condition, Field, sql
from dualpath.gallery.rows import COLUMNS, VECTOR, TableName, schema
from dualpath.gallery.store import About
from dualpath.vectors import Vectors

ABOUT = "gallery.json"
TABLES: tuple[TableName, ...] = ("pictures", "captions")
INDEX_FROM = 50_000  # rows; below, comparing with every one takes some milliseconds
# Measured by benchmarks/gallery.py: recall@10 at a million rows, with and without a filter.
_PROBES, _REFINE = 30, 3
_UNINDEXED_SHARE = 0.2
_KEEP_VERSIONS = timedelta(minutes=10)  # a reader may still be in one
_BEGUN = {"lock", "gallery.partial", *(f"{table}.lance" for table in TABLES)}
_MANY = 5_000  # values in one condition

logging.getLogger("lance").setLevel(logging.ERROR)


class LanceStore:
    """Rows in a folder, safe for many readers and writers of one machine.

    Every write is a new version: a process that dies leaves the last whole one. Below
    ``INDEX_FROM`` rows a search compares with all of them; above, an IVF index with 8-bit codes
    picks candidates, which are compared exactly.
    """

    many_writers = False

    def __init__(self, address: str) -> None:
        self.folder = Path(address).absolute()
        if self.folder.is_file():
            raise GalleryError(f"{self.folder}: is a file; a gallery is a folder of its own")
        there = {file.name for file in self.folder.iterdir()} if self.folder.is_dir() else set()
        if not self._about.exists() and there - _BEGUN:
            raise GalleryError(
                f"{self.folder}: holds other files; a gallery is a folder of its own"
            )
        self._db: lancedb.DBConnection | None = None
        self._opened: dict[TableName, Any] = {}

    @property
    def _about(self) -> Path:
        return self.folder / ABOUT

    def read_about(self) -> About | None:
        if not self._about.exists():
            return None
        try:
            about: About = json.loads(self._about.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise GalleryError(f"{self._about}: cannot be read ({error})") from error
        return about

    def write_about(self, about: About) -> None:
        db = self._connect()
        for name in set(TABLES) - set(db.list_tables().tables):
            db.create_table(name, schema=schema(name, about["dim"], {}))
        partial = self._about.with_suffix(".partial")
        partial.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")
        partial.replace(self._about)

    def writing(self) -> AbstractContextManager[Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "lock")

    def upsert(self, table: TableName, rows: pa.Table) -> None:
        if rows.num_rows:
            merge = self._table(table).merge_insert("id")
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, table: TableName, column: str, values: Sequence[str]) -> None:
        for condition in _among(column, values):
            self._table(table).delete(condition)

    def search(
        self, table: TableName, vector: Vectors, top: int, where: Condition | None
    ) -> list[tuple[dict[str, Any], float]]:
        query = self._table(table).search(vector, vector_column_name=VECTOR)
        query = query.distance_type("cosine").nprobes(_PROBES).refine_factor(_REFINE)
        if where is not None:
            query = query.where(sql(where), prefilter=True)
        found = query.select([*COLUMNS[table], "_distance"]).limit(top).to_list()
        return [(row, 1.0 - float(row.pop("_distance"))) for row in found]

    def get(
        self, table: TableName, column: str, values: Sequence[str], *, vectors: bool = False
    ) -> list[dict[str, Any]]:
        columns = [*COLUMNS[table], *([VECTOR] if vectors else [])]
        rows: list[dict[str, Any]] = []
        for condition in _among(column, values):
            found = self._table(table).search().where(condition).select(columns)
            rows += found.limit(None).to_list()
        return rows

    def scan(self, table: TableName, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from self._table(table).search().select(list(columns)).limit(None).to_batches()

    def count(self, table: TableName) -> int:
        return int(self._table(table).count_rows())

    def add_fields(self, fields: Mapping[str, Field]) -> None:
        for name in TABLES:
            table = self._table(name)
            there = set(table.schema.names)
            wanted = schema(name, 1, fields)
            new = [column for column in wanted if column.name not in there]
            if new:
                table.add_columns(new)

    def settle(self) -> None:
        for name in TABLES:
            table = self._table(name)
            rows, indices = int(table.count_rows()), {i.name for i in table.list_indices()}
            if rows >= INDEX_FROM:
                for column in ("id", "picture") if name == "captions" else ("id", "content"):
                    if f"{column}_idx" not in indices:
                        table.create_index(column, config=BTree())
                unindexed = self._unindexed(name)
                if unindexed is None or unindexed > _UNINDEXED_SHARE * rows:
                    table.create_index(VECTOR, config=IvfSq(distance_type="cosine"))
            table.optimize(cleanup_older_than=_KEEP_VERSIONS)

    def describe(self) -> dict[str, str]:
        size = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        unindexed = self._unindexed("pictures")
        index = (
            "none, exact"
            if unindexed is None
            else f"IVF with 8-bit codes, {unindexed:,} rows aside"
        )
        return {"store": "LanceDB", "size on disk": f"{size / 2**20:,.1f} MiB", "index": index}

    def close(self) -> None:
        self._opened.clear()
        self._db = None

    def _connect(self) -> lancedb.DBConnection:
        if self._db is None:
            # Every call sees what another process has written.
            self._db = lancedb.connect(self.folder, read_consistency_interval=timedelta(0))
        return self._db

    def _table(self, name: TableName) -> Any:
        if name not in self._opened:
            self._opened[name] = self._connect().open_table(name)
        return self._opened[name]

    def _unindexed(self, name: TableName) -> int | None:
        """Return the rows that the index of vectors does not know yet; none: there is no index."""
        stats = self._table(name).index_stats(f"{VECTOR}_idx")
        return None if stats is None else int(stats.num_unindexed_rows)


def _among(column: str, values: Sequence[str]) -> Iterator[str]:
    """Write the conditions that ``column`` is one of the values, some thousands each."""
    for start in range(0, len(values), _MANY):
        quoted = ("'" + value.replace("'", "''") + "'" for value in values[start : start + _MANY])
        yield f"{column} in ({', '.join(quoted)})"
