"""The embedded store: tables of the Lance format in a folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from filelock import FileLock

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
from dualpath.gallery.stores.lance_versions import LanceVersions, table_path
from dualpath.types import Vectors
from dualpath.utils.files import atomic_write

if TYPE_CHECKING:
    from lance import LanceDataset

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
        self._session: Any = None
        self._lock = Lock()
        self._opened: dict[TableName, tuple[str, LanceDataset]] = {}
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
        import lance

        for name in COLUMNS:
            path = table_path(self.folder, name)
            if not path.exists():
                lance.write_dataset(schema(name, metadata["dim"], {}).empty_table(), path)
        text = json.dumps(metadata, indent=2, ensure_ascii=False)
        atomic_write(self._metadata_file, text + "\n")

    def write_lock(self) -> AbstractContextManager[Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / _LOCK_FILE)

    def upsert(self, table: TableName, rows: pa.Table) -> None:
        if rows.num_rows:
            merge = self._latest(table).merge_insert("id")
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, table: TableName, column: str, values: Sequence[str]) -> None:
        for condition in _membership_conditions(column, values):
            self._latest(table).delete(condition)

    def search(
        self, table: TableName, vector: Vectors, top: int, where: Condition | None
    ) -> list[tuple[Row, float]]:
        nearest = {
            "column": VECTOR,
            "q": vector,
            "k": top,
            "metric": "cosine",
            "nprobes": _PROBES,
            "refine_factor": _REFINE,
        }
        rows: list[Row] = (
            self._open(table)
            .to_table(
                columns=[*COLUMNS[table], "_distance"],
                nearest=nearest,
                filter=None if where is None else to_sql(where),
                prefilter=True,
            )
            .to_pylist()
        )
        return [(row, 1.0 - float(row.pop("_distance"))) for row in rows]

    def get(
        self, table: TableName, column: str, values: Sequence[str], *, vectors: bool = False
    ) -> list[Row]:
        columns = [*COLUMNS[table], *([VECTOR] if vectors else [])]
        rows: list[Row] = []
        for condition in _membership_conditions(column, values):
            rows += self._open(table).to_table(columns=columns, filter=condition).to_pylist()
        return rows

    def scan(self, table: TableName, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from self._open(table).to_batches(columns=list(columns))

    def count(self, table: TableName) -> int:
        return int(self._open(table).count_rows())

    def add_fields(self, fields: Mapping[str, Field]) -> None:
        for name in COLUMNS:
            table = self._latest(name)
            present = set(table.schema.names)
            new = [column for column in schema(name, 1, fields) if column.name not in present]
            if new:
                table.add_columns(pa.schema(new))

    def optimize(self) -> None:
        for name, columns in _LOOKUP_COLUMNS.items():
            table = self._latest(name)
            rows = int(table.count_rows())
            if rows >= _INDEX_FROM:
                indices = {index.name for index in table.describe_indices()}
                for column in columns:
                    if f"{column}_idx" not in indices:
                        table.create_scalar_index(column, "BTREE")
                unindexed = _count_unindexed(table)
                if unindexed is None or unindexed > _MAX_UNINDEXED * rows:
                    table.create_index(VECTOR, "IVF_SQ", metric="cosine", replace=True)
            table.optimize.compact_files()
            table.optimize.optimize_indices()
            table.cleanup_old_versions(older_than=_KEEP_VERSIONS)

    def describe(self) -> dict[str, str]:
        size = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        unindexed = _count_unindexed(self._open(IMAGES))
        index = (
            "none, searches compare all rows"
            if unindexed is None
            else f"IVF with 8-bit codes, {unindexed:,} rows not yet indexed"
        )
        return {"store": "Lance", "size on disk": f"{size / 2**20:,.1f} MiB", "index": index}

    def close(self) -> None:
        with self._lock:
            self._opened.clear()

    def _open(self, name: TableName) -> "LanceDataset":
        """Return the current version of a table for reading; several threads may share it."""
        state = self.versions.state(name)
        with self._lock:
            opened = self._opened.get(name)
        if opened is not None and opened[0] == state:
            return opened[1]
        table = self._latest(name)
        if state is not None:
            with self._lock:
                self._opened[name] = (state, table)
        return table

    def _latest(self, name: TableName) -> "LanceDataset":
        """Open the current version of a table. A write to this object changes it."""
        import lance  # takes as long as everything else of a search

        if self._session is None:
            self._session = lance.Session()  # type: ignore[attr-defined]
        return lance.dataset(table_path(self.folder, name), session=self._session)


def _count_unindexed(table: "LanceDataset") -> int | None:
    """Return the number of rows that the vector index does not contain. None: no index."""
    for index in table.describe_indices():
        if index.name == f"{VECTOR}_idx":
            return int(table.count_rows()) - int(index.num_rows_indexed)
    return None


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
