"""Versions of a Lance table: finding out that a table has changed, and reading one version."""

import re
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dualpath.gallery.schema import VECTOR, TableName
from dualpath.gallery.stores.base import ROW_ID, RowIds

if TYPE_CHECKING:
    from lance import LanceDataset

# Each version has a manifest, whose name counts down, so that the newest is the first.
_MANIFEST = re.compile(r"\d{20}\.manifest")
_LAST_NUMBER = 2**64 - 1
_SETTLED = 100_000_000  # nanoseconds; file systems may give two writes the same time within less
_ROWS_PER_QUERY = 5_000


class LanceVersions:
    """The versions of the tables in a folder; see :class:`dualpath.gallery.stores.base.Versions`.

    A version's manifest names its data files, which have random names. So the hash of the manifest
    identifies the content of the table, also if a folder is deleted and written again.

    Args:
        store: folder of the tables.
        folder: for derived files.
    """

    def __init__(self, store: Path, folder: Path) -> None:
        self._store, self.folder = store, folder
        self._known: dict[TableName, tuple[tuple[int, int], str]] = {}

    def state(self, table: TableName) -> str | None:
        """Return the hash of the newest manifest.

        While nothing changes, this only reads the modification time of a folder.
        """
        try:
            status = _manifests(self._store, table).stat()
            stamp = (status.st_ino, status.st_mtime_ns)
            known = self._known.get(table)
            if known is not None and known[0] == stamp:
                return known[1]
            settled = time.time_ns() - status.st_mtime_ns > _SETTLED
            newest = self._newest(table)
        except OSError:
            return None
        if newest is None:
            return None
        if settled:
            self._known[table] = (stamp, newest[1])
        return newest[1]

    def pin(self, table: TableName) -> "LancePinnedTable | None":
        try:
            newest = self._newest(table)
        except OSError:
            return None
        if newest is None:
            return None
        import lance  # not needed for `state`, and slow

        dataset = lance.dataset(table_path(self._store, table), version=newest[0])
        return LancePinnedTable(dataset, newest[1])

    def _newest(self, table: TableName) -> tuple[int, str] | None:
        """Return the number and the hash of the newest version.

        None: there is none, or its name is unknown.
        """
        folder = _manifests(self._store, table)
        names = [path.name for path in folder.iterdir() if _MANIFEST.fullmatch(path.name)]
        if not names:
            return None
        content = (folder / min(names)).read_bytes()
        return _LAST_NUMBER - int(min(names)[:20]), blake2b(content, digest_size=16).hexdigest()


def table_path(store: Path, table: TableName) -> Path:
    """Return the folder of a table."""
    return store / f"{table}.lance"


def _manifests(store: Path, table: TableName) -> Path:
    return table_path(store, table) / "_versions"


class LancePinnedTable:
    """One version of a table; see :class:`dualpath.gallery.stores.base.PinnedTable`."""

    def __init__(self, dataset: "LanceDataset", state: str) -> None:
        self._dataset, self.state = dataset, state

    def count(self) -> int:
        return int(self._dataset.count_rows())

    def row_ids(self) -> RowIds:
        table = self._dataset.to_table(columns=[], with_row_id=True)
        row_ids: RowIds = table[ROW_ID].to_numpy().astype(np.uint64)
        return row_ids

    def read(self, row_ids: RowIds | None = None) -> Iterator[pa.RecordBatch]:
        if row_ids is None:
            yield from self._dataset.to_batches(with_row_id=True)
            return
        for start in range(0, len(row_ids), _ROWS_PER_QUERY):
            some = ", ".join(map(str, row_ids[start : start + _ROWS_PER_QUERY].tolist()))
            yield from self._dataset.to_batches(filter=f"{ROW_ID} in ({some})", with_row_id=True)

    def vector_length(self) -> int:
        return int(self._dataset.schema.field(VECTOR).type.list_size)
