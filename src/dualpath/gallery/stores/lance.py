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

from dualpath.errors import GalleryError
from dualpath.gallery.filters import (
    Comparison,
    Condition,
    Field,
    NullTest,
    render_condition,
    render_literal,
)
from dualpath.gallery.schema import CAPTIONS, COLUMNS, IMAGES, OWNER, VECTOR, TableName, schema
from dualpath.gallery.stores.base import Row, StoreMetadata
from dualpath.gallery.stores.lance_versions import LanceVersions
from dualpath.types import Vectors
from dualpath.utils.files import atomic_write

METADATA_FILE = "gallery.json"
_LOCK_FILE = "lock"
_DERIVED_FOLDER = "derived"
_INDEX_FROM = 50_000  # rows; below, a search compares all rows in a few milliseconds
# Measured by benchmarks/gallery.py: recall@10 at a million rows, with and without a filter.
_PROBES, _REFINE = 30, 3
_MAX_UNINDEXED = 0.2  # share of the rows; above, the index is built again
_KEEP_VERSIONS = timedelta(minutes=10)  # a process may still read an older version
_VALUES_PER_QUERY = 5_000
_LOOKUP_COLUMNS: dict[TableName, tuple[str, str]] = {
    IMAGES: ("id", "content"),
    CAPTIONS: ("id", OWNER),
}

logging.getLogger("lance").setLevel(logging.ERROR)


class LanceStore:
    """A store in a folder, for many readers and writers on one machine.

    Every write creates a new version of a table, so a killed process leaves the last complete one.
    With fewer than 50,000 rows a search compares all of them. With more, an IVF index with 8-bit
    codes selects candidates, and the search compares the candidates exactly.
    """

    allows_parallel_writers = False

    def __init__(self, address: str) -> None:
        self.folder = Path(address).absolute()
        self._metadata_file = self.folder / METADATA_FILE
        if self.folder.is_file():
            raise GalleryError(f"{self.folder}: is a file; give a folder for the gallery")
        files = [file.name for file in self.folder.iterdir()] if self.folder.is_dir() else []
        if METADATA_FILE not in files and not all(map(_may_belong, files)):
            raise GalleryError(
                f"{self.folder}: contains other files; give an empty or new folder for the gallery"
            )
        self._connection: lancedb.DBConnection | None = None
        self._tables: dict[TableName, Any] = {}
        self.versions = LanceVersions(self.folder, self.folder / _DERIVED_FOLDER)

    def read_metadata(self) -> StoreMetadata | None:
        if not self._metadata_file.exists():
            return None
        try:
            metadata: StoreMetadata = json.loads(self._metadata_file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise GalleryError(f"{self._metadata_file}: cannot be read ({error})") from error
        return metadata

    def write_metadata(self, metadata: StoreMetadata) -> None:
        connection = self._connect()
        for name in set(COLUMNS) - set(connection.list_tables().tables):
            connection.create_table(name, schema=schema(name, metadata["dim"], {}))
        text = json.dumps(metadata, indent=2, ensure_ascii=False)
        atomic_write(self._metadata_file, text + "\n")

    def write_lock(self) -> AbstractContextManager[Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / _LOCK_FILE)

    def upsert(self, table: TableName, rows: pa.Table) -> None:
        if rows.num_rows:
            merge = self._table(table).merge_insert("id")
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, table: TableName, column: str, values: Sequence[str]) -> None:
        for condition in _membership_conditions(column, values):
            self._table(table).delete(condition)

    def search(
        self, table: TableName, vector: Vectors, top: int, where: Condition | None
    ) -> list[tuple[Row, float]]:
        query = self._table(table).search(vector, vector_column_name=VECTOR)
        query = query.distance_type("cosine").nprobes(_PROBES).refine_factor(_REFINE)
        if where is not None:
            query = query.where(to_sql(where), prefilter=True)
        rows = query.select([*COLUMNS[table], "_distance"]).limit(top).to_list()
        return [(row, 1.0 - float(row.pop("_distance"))) for row in rows]

    def get(
        self, table: TableName, column: str, values: Sequence[str], *, vectors: bool = False
    ) -> list[Row]:
        columns = [*COLUMNS[table], *([VECTOR] if vectors else [])]
        rows: list[Row] = []
        for condition in _membership_conditions(column, values):
            query = self._table(table).search().where(condition).select(columns)
            rows += query.limit(None).to_list()
        return rows

    def scan(self, table: TableName, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from self._table(table).search().select(list(columns)).limit(None).to_batches()

    def count(self, table: TableName) -> int:
        return int(self._table(table).count_rows())

    def add_fields(self, fields: Mapping[str, Field]) -> None:
        for name in COLUMNS:
            table = self._table(name)
            present = set(table.schema.names)
            new = [column for column in schema(name, 1, fields) if column.name not in present]
            if new:
                table.add_columns(new)

    def optimize(self) -> None:
        for name, columns in _LOOKUP_COLUMNS.items():
            table = self._table(name)
            rows = int(table.count_rows())
            if rows >= _INDEX_FROM:
                indices = {index.name for index in table.list_indices()}
                for column in columns:
                    if f"{column}_idx" not in indices:
                        table.create_index(column, config=BTree())
                unindexed = self._count_unindexed(name)
                if unindexed is None or unindexed > _MAX_UNINDEXED * rows:
                    table.create_index(VECTOR, config=IvfSq(distance_type="cosine"))
            table.optimize(cleanup_older_than=_KEEP_VERSIONS)

    def describe(self) -> dict[str, str]:
        size = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        unindexed = self._count_unindexed(IMAGES)
        index = (
            "none, searches compare all rows"
            if unindexed is None
            else f"IVF with 8-bit codes, {unindexed:,} rows not yet indexed"
        )
        return {"store": "LanceDB", "size on disk": f"{size / 2**20:,.1f} MiB", "index": index}

    def close(self) -> None:
        self._tables.clear()
        self._connection = None

    def _connect(self) -> lancedb.DBConnection:
        if self._connection is None:
            # Every call reads what another process has written.
            self._connection = lancedb.connect(self.folder, read_consistency_interval=timedelta(0))
        return self._connection

    def _table(self, name: TableName) -> Any:
        if name not in self._tables:
            self._tables[name] = self._connect().open_table(name)
        return self._tables[name]

    def _count_unindexed(self, name: TableName) -> int | None:
        """Return the number of rows that the vector index does not contain. None: no index."""
        stats = self._table(name).index_stats(f"{VECTOR}_idx")
        return None if stats is None else int(stats.num_unindexed_rows)


def to_sql(condition: Condition) -> str:
    """Write a condition as SQL.

    >>> to_sql(Comparison("field_0", "=", "it's"))
    "field_0 = 'it''s'"
    """
    return render_condition(condition, _sql_comparison, _sql_null_test)


def _sql_comparison(comparison: Comparison) -> str:
    value = comparison.value
    literal = _quote(value) if isinstance(value, str) else render_literal(value)
    return f"{comparison.column} {comparison.operator} {literal}"


def _sql_null_test(test: NullTest) -> str:
    return f"{test.column} is {'' if test.is_null else 'not '}null"


def _membership_conditions(column: str, values: Sequence[str]) -> Iterator[str]:
    """Yield SQL conditions that ``column`` is one of the values, for a part of them each."""
    for start in range(0, len(values), _VALUES_PER_QUERY):
        quoted = (_quote(value) for value in values[start : start + _VALUES_PER_QUERY])
        yield f"{column} in ({', '.join(quoted)})"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _may_belong(name: str) -> bool:
    """Return whether a file may belong to a gallery whose creation was interrupted."""
    if name.startswith("gallery.") and name.endswith(".partial"):
        return True
    return name in (_LOCK_FILE, _DERIVED_FOLDER, *(f"{table}.lance" for table in COLUMNS))
