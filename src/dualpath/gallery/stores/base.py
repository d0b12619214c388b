"""The interface between a gallery and the engine that stores its rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dualpath.gallery.filters import Condition, Field
from dualpath.gallery.schema import TableName
from dualpath.types import Vectors

Row = dict[str, Any]  # by column name
RowIds = npt.NDArray[np.uint64]
ROW_ID: Final = "_rowid"  # the column that :meth:`PinnedTable.read` adds


class StoreMetadata(TypedDict):
    """What a store records about its gallery, as JSON. See :mod:`dualpath.gallery.info`."""

    format: int
    model: str
    name: str
    source: str | None
    dim: int
    roots: list[str]
    fields: dict[str, dict[str, str]]


class PinnedTable(Protocol):
    """One version of a table. Later writes do not change it.

    Each row has an id of the engine, which no other row gets. A row that is written again has a new
    id. Compaction may give all rows new ids.

    Attributes:
        state: of the table at this version; see :meth:`Versions.state`.
    """

    state: str

    def count(self) -> int:
        """Return the number of rows."""

    def row_ids(self) -> RowIds:
        """Return the ids of all rows, (rows,)."""

    def read(self, row_ids: RowIds | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows, or those with some ids, with their vectors, fields and ids.

        The order is any.
        """

    def vector_length(self) -> int:
        """Return the number of dimensions of the vectors."""


class Versions(Protocol):
    """The versions of a store's tables.

    Attributes:
        folder: for files that can be computed again.
    """

    folder: Path

    def state(self, table: TableName) -> str | None:
        """Return a text that every write to a table changes. It is cheap to call.

        None: the state is unknown; the store itself must be searched.
        """

    def pin(self, table: TableName) -> PinnedTable | None:
        """Return the current version of a table. None: it is unknown."""


class Store(Protocol):
    """Two tables, whose rows have a vector each, and metadata about the gallery.

    The tables and columns are those of :mod:`dualpath.gallery.schema`; ``id`` is the primary key.
    Every later call sees what an earlier call has written, also after the process has ended.

    Attributes:
        allows_parallel_writers: whether processes of several machines may write different rows at
            the same time.
    """

    allows_parallel_writers: bool

    @property
    def versions(self) -> Versions | None:
        """The versions of the tables, from which an index in memory is derived.

        None: the engine answers all searches itself. See :mod:`dualpath.gallery.derived`.
        """

    def read_metadata(self) -> StoreMetadata | None:
        """Return the metadata, or None if the gallery does not exist."""

    def write_metadata(self, metadata: StoreMetadata) -> None:
        """Replace the metadata. Create the tables if they do not exist."""

    def write_lock(self) -> AbstractContextManager[Any]:
        """Return a context manager that prevents other processes from writing."""

    def upsert(self, table: TableName, rows: pa.Table) -> None:
        """Write rows, all or none. A row replaces the stored row with the same id."""

    def delete(self, table: TableName, column: str, values: Sequence[str]) -> None:
        """Delete the rows whose ``column`` (the id or the owner) is one of the values."""

    def search(
        self, table: TableName, vector: Vectors, top: int, where: Condition | None
    ) -> list[tuple[Row, float]]:
        """Return the ``top`` rows nearest to a unit vector, (dim,), and their cosines.

        The rows do not contain their vectors.
        """

    def get(
        self, table: TableName, column: str, values: Sequence[str], *, vectors: bool = False
    ) -> list[Row]:
        """Return the rows whose ``column`` (id, owner or content) is one of the values.

        Args:
            table: to read.
            column: to compare.
            values: to compare with.
            vectors: whether the rows contain their vectors.
        """

    def scan(self, table: TableName, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield all rows, in any order."""

    def count(self, table: TableName) -> int:
        """Return the number of rows."""

    def add_fields(self, fields: Mapping[str, Field]) -> None:
        """Add columns for the metadata fields that have none."""

    def optimize(self) -> None:
        """Compact the tables and update the indices, after many rows were written."""

    def describe(self) -> dict[str, str]:
        """Return the properties of the engine that ``dualpath gallery info`` prints."""

    def close(self) -> None:
        """Close files and connections."""
