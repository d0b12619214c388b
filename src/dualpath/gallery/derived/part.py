"""A part of a table as arrays: vectors, rows as JSON lines, and the fields that filters use."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dualpath.gallery.schema import COLUMNS, IMAGES, JSON_COLUMNS, VECTOR, TableName
from dualpath.gallery.stores.base import ROW_ID, Row, RowIds
from dualpath.types import IntArray, Vectors

_decode = json.JSONDecoder().raw_decode  # json.loads also skips spaces, which takes as long
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """Rows of a table, numbered from 0. The arrays may be memory-mapped.

    Attributes:
        row_ids: of the store, (rows,).
        vectors: unit vectors, (rows, dim).
        lines: the columns of the rows, without vectors and fields, as JSON, one after another.
            Columns that contain JSON are a part of it, so that it is decoded at once.
        ends: the end of each row in ``lines``, (rows,).
        fields: the columns of the metadata fields. Fields that the store has added later are
            missing; they are null.
    """

    row_ids: RowIds
    vectors: Vectors
    lines: Bytes
    ends: IntArray
    fields: Mapping[str, pa.ChunkedArray]

    def __len__(self) -> int:
        return len(self.row_ids)

    def row(self, number: int) -> Row:
        """Return the columns of a row, without its vector. JSON in columns is decoded."""
        start = int(self.ends[number - 1]) if number else 0
        row: Row = _decode(str(self.lines[start : int(self.ends[number])].data, "utf-8"))[0]
        return row


def to_parts(table: TableName, batches: Iterable[pa.RecordBatch], dim: int) -> Iterator[Part]:
    """Convert batches of :meth:`PinnedTable.read`, one part each."""
    for batch in batches:
        flat = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False)
        vectors = np.array(flat, np.float32).reshape(-1, dim)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(lengths > 0, lengths, 1)
        columns = {name: batch.column(name).to_pylist() for name in COLUMNS[table]}
        for name in JSON_COLUMNS if table == IMAGES else ():
            columns[name] = [json.loads(cell) for cell in columns[name]]
        lines = [
            json.dumps(dict(zip(columns, cells, strict=True)), ensure_ascii=False).encode()
            for cells in zip(*columns.values(), strict=True)
        ]
        yield Part(
            batch.column(ROW_ID).to_numpy(zero_copy_only=False).astype(np.uint64),
            vectors,
            np.frombuffer(b"".join(lines), np.uint8),
            np.cumsum([len(line) for line in lines], dtype=np.int64),
            {
                name: pa.chunked_array([batch.column(name)])
                for name in batch.schema.names
                if name not in (*COLUMNS[table], VECTOR, ROW_ID)
            },
        )


def join(parts: Sequence[Part], dim: int) -> Part:
    """Return one part that contains the rows of all parts, in order."""
    offsets = np.cumsum([0, *(len(part.lines) for part in parts)])
    return Part(
        np.concatenate([np.empty(0, np.uint64), *(part.row_ids for part in parts)]),
        np.concatenate([np.empty((0, dim), np.float32), *(part.vectors for part in parts)]),
        np.concatenate([np.empty(0, np.uint8), *(part.lines for part in parts)]),
        np.concatenate(
            [
                np.empty(0, np.int64),
                *(part.ends + start for part, start in zip(parts, offsets, strict=False)),
            ]
        ),
        _join_fields(parts),
    )


def _join_fields(parts: Sequence[Part]) -> dict[str, pa.ChunkedArray]:
    types: dict[str, Any] = {n: array.type for part in parts for n, array in part.fields.items()}
    return {
        name: pa.chunked_array(
            [
                chunk
                for part in parts
                for chunk in (
                    part.fields[name].chunks if name in part.fields else [pa.nulls(len(part), kind)]
                )
            ],
            kind,
        )
        for name, kind in types.items()
    }
