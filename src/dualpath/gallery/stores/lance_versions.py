"""Versions of a LanceDB table: finding out that a table has changed, and reading one version."""

import re
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dualpath.gallery.schema import VECTOR
from dualpath.gallery.stores.base import ROW_ID, RowIds

# Each version has a manifest, whose name counts down, so that the newest is the first.
_MANIFEST = re.compile(r"(\d{20})\.manifest")
_LAST_NUMBER = 2**64 - 1
_SETTLED = 100_000_000  # nanoseconds; file systems may give two writes the same time within less
_ROWS_PER_QUERY = 5_000


class VersionReader:
    """Reads the state of a table from its files, without opening it.

    A version's manifest names its data files, which have random names. So the hash of the manifest
    identifies the content of the table, also if a folder is deleted and written again.
    """

    def __init__(self, table: Path) -> None:
        self._folder = table / "_versions"
        self._known: tuple[tuple[int, int], str] | None = None

    def state(self) -> str | None:
        """Return a hash of the newest version. None: the files are arranged in an unknown way.

        While nothing changes, this reads the modification time of one folder.
        """
        try:
            status = self._folder.stat()
            stamp = (status.st_ino, status.st_mtime_ns)
            known = self._known
            if known is not None and known[0] == stamp:
                return known[1]
            settled = time.time_ns() - status.st_mtime_ns > _SETTLED
            number = newest_version(self._folder)
            if number is None:
                return None
            state = version_state(self._folder, number)
        except OSError:
            return None
        self._known = (stamp, state) if settled else None
        return state


def newest_version(versions: Path) -> int | None:
    """Return the number of the newest version. None: there is none, or its name is unknown."""
    names = [match[1] for path in versions.iterdir() if (match := _MANIFEST.fullmatch(path.name))]
    return _LAST_NUMBER - int(min(names)) if names else None


def version_state(versions: Path, number: int) -> str:
    """Return the hash of a version.

    Raises:
        OSError: the version does not exist any more.
    """
    content = (versions / f"{_LAST_NUMBER - number:020}.manifest").read_bytes()
    return blake2b(content, digest_size=16).hexdigest()


class LancePinnedTable:
    """One version of a table; see :class:`dualpath.gallery.stores.base.PinnedTable`."""

    def __init__(self, table: Any, state: str) -> None:
        self._table, self.state = table, state

    def row_ids(self) -> RowIds:
        query = self._table.search().select([]).with_row_id(True).limit(None)
        row_ids: RowIds = query.to_arrow()[ROW_ID].to_numpy().astype(np.uint64)
        return row_ids

    def read(self, row_ids: RowIds | None = None) -> Iterator[pa.RecordBatch]:
        if row_ids is None:
            query = self._table.search().with_row_id(True).limit(None)
            yield from query.to_batches()
            return
        columns = self._table.schema.names
        for start in range(0, len(row_ids), _ROWS_PER_QUERY):
            some = row_ids[start : start + _ROWS_PER_QUERY].tolist()
            query = self._table.take_row_ids(some).select(columns).with_row_id()
            yield from query.to_arrow().combine_chunks().to_batches()

    def vector_length(self) -> int:
        return int(self._table.schema.field(VECTOR).type.list_size)
