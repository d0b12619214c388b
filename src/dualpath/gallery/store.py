"""What a gallery asks of the engine that keeps its rows, and where each engine is found."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pyarrow as pa

from dualpath.gallery.errors import GalleryError
from dualpath.gallery.filters import Condition, Field
from dualpath.gallery.rows import TableName
from dualpath.vectors import Vectors

About = dict[str, Any]


class Store(Protocol):
    """Two tables of rows with a vector each, and a note about the gallery.

    Rows have the columns of :mod:`dualpath.gallery.rows`, ``id`` naming one row. What a call has
    written is seen by every later call, and survives the end of the process.

    Attributes:
        many_writers: whether processes of several machines may write at once, each other rows.
    """

    many_writers: bool

    def read_about(self) -> About | None:
        """Return the note, or none where nothing was ever stored."""

    def write_about(self, about: About) -> None:
        """Replace the note, making the tables if they are not there."""

    def writing(self) -> AbstractContextManager[Any]:
        """Hold off other writers."""

    def upsert(self, table: TableName, rows: pa.Table) -> None:
        """Write rows; those whose id is there already replace it. All or nothing."""

    def delete(self, table: TableName, column: str, values: Sequence[str]) -> None:
        """Remove the rows whose ``id`` or ``picture`` is one of the values."""

    def search(
        self, table: TableName, vector: Vectors, top: int, where: Condition | None
    ) -> list[tuple[dict[str, Any], float]]:
        """Return the rows (without vectors) nearest to a unit vector, and their cosines."""

    def get(
        self, table: TableName, column: str, values: Sequence[str], *, vectors: bool = False
    ) -> list[dict[str, Any]]:
        """Return the rows whose ``id``, ``picture`` or ``content`` is one of the values."""

    def scan(self, table: TableName, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Go through all rows, in no order."""

    def count(self, table: TableName) -> int:
        """Return the number of rows."""

    def add_fields(self, fields: Mapping[str, Field]) -> None:
        """Make room for metadata fields that are new."""

    def settle(self) -> None:
        """After much was written: tidy up and bring the index up to date."""

    def describe(self) -> dict[str, str]:
        """Tell what a person may want to know of the engine."""

    def close(self) -> None:
        """Let go of the engine."""


def open_store(address: str) -> Store:
    """Open the store of an address: a path is embedded (LanceDB), an address Milvus.

    Raises:
        GalleryError: it cannot be reached, or is something else.
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        from dualpath.gallery.lance import LanceStore

        return LanceStore(address)
    if scheme in ("http", "https", "tcp"):
        from dualpath.gallery.milvus import MilvusStore

        return MilvusStore(address)
    raise GalleryError(
        f"{address}: not understood; a gallery is a folder, or http://HOST:PORT/NAME of Milvus"
    )
