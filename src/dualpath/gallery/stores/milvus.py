"""The client-server store: a Milvus server or cluster, reached by its address."""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pyarrow as pa
from pymilvus import DataType, MilvusClient, MilvusException

from dualpath.errors import GalleryError
from dualpath.gallery.filters import (
    Comparison,
    Condition,
    Field,
    NullTest,
    render_condition,
    render_literal,
)
from dualpath.gallery.schema import CAPTIONS, COLUMNS, IMAGES, OWNER, VECTOR, TableName
from dualpath.gallery.stores.base import Row, StoreMetadata
from dualpath.types import Vectors
from dualpath.utils.text import error_reason

TOKEN_VARIABLE = "MILVUS_TOKEN"
# Names on the server. Galleries of version 0.1 have them, so they must not change.
_METADATA_TABLE, _METADATA_COLUMN, _METADATA_ROW = "about", "note", "gallery"
_BATCH = 1_000  # rows or values in one message
_MAX_BYTES = {"id": 64, OWNER: 64, "content": 64}  # of a text column
_MAX_BYTES_OTHERS = 65_535  # the limit of Milvus
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_INDEX = {"index_type": "HNSW", "metric_type": "COSINE"}
_INDEX_BUILD = {"M": 16, "efConstruction": 200}
_MIN_CANDIDATES = 128  # of the HNSW index in a search
_LOOKUP_COLUMN = {IMAGES: "content", CAPTIONS: OWNER}  # indexed beside the id

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _raises_gallery_error(
    method: Callable[Concatenate["MilvusStore", _P], _R],
) -> Callable[Concatenate["MilvusStore", _P], _R]:
    """Convert errors of Milvus to a ``GalleryError`` of one line that names the gallery."""

    def call(self: "MilvusStore", *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(self, *args, **kwargs)
        except MilvusException as error:
            raise _gallery_error(self.address, error) from error

    return wraps(method)(call)  # type: ignore[return-value]


class MilvusStore:
    """A store in the collections ``NAME_pictures``, ``NAME_captions`` and ``NAME_about``.

    The environment variable ``MILVUS_TOKEN`` contains the token of a user (``user:password`` or an
    API key). ``?shards=4&replicas=2`` after the address distributes a new gallery: writes go to 4
    shards, and 2 query nodes load each part of the data.

    Milvus has no lock, so only one command at a time may add images. Searches are not limited.
    """

    allows_parallel_writers = True
    versions = None  # the server has its index in memory

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        name = parts.path.strip("/")
        if not parts.hostname or not _NAME.fullmatch(name):
            raise GalleryError(
                f"{address}: write it as http://HOST:PORT/NAME, with a NAME of letters, digits "
                "and _"
            )
        if parts.username or parts.password:
            raise GalleryError(
                f"the address contains a user or password; put them into the environment variable "
                f"{TOKEN_VARIABLE} instead"
            )
        self.address = address
        self._name = name
        self._shards, self._replicas = _read_options(address, parts.query)
        server = f"{'http' if parts.scheme == 'tcp' else parts.scheme}://{parts.netloc}"
        try:
            self._client = MilvusClient(
                uri=server, token=os.environ.get(TOKEN_VARIABLE, ""), timeout=30
            )
        except MilvusException as error:
            raise GalleryError(
                f"{server}: the Milvus server does not answer ({_reason(error)})"
            ) from error

    @_raises_gallery_error
    def read_metadata(self) -> StoreMetadata | None:
        collection = self._collection(_METADATA_TABLE)
        if not self._client.has_collection(collection):
            return None
        rows = self._client.get(collection, ids=[_METADATA_ROW], output_fields=[_METADATA_COLUMN])
        if not rows:
            return None
        metadata: StoreMetadata = json.loads(rows[0][_METADATA_COLUMN])
        return metadata

    @_raises_gallery_error
    def write_metadata(self, metadata: StoreMetadata) -> None:
        for table, columns in COLUMNS.items():
            self._create(table, columns, metadata["dim"])
        self._create(_METADATA_TABLE, {"id": pa.string(), _METADATA_COLUMN: pa.string()}, 2)
        text = json.dumps(metadata, ensure_ascii=False)
        # A collection without vectors is not possible.
        row = {"id": _METADATA_ROW, _METADATA_COLUMN: text, VECTOR: [1.0, 0.0]}
        self._client.upsert(self._collection(_METADATA_TABLE), [row])

    def write_lock(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @_raises_gallery_error
    def upsert(self, table: TableName, rows: pa.Table) -> None:
        for batch in rows.to_batches(max_chunksize=_BATCH):
            cells = [
                {name: value for name, value in row.items() if value is not None}
                for row in batch.to_pylist()
            ]
            self._client.upsert(self._collection(table), cells)

    @_raises_gallery_error
    def delete(self, table: TableName, column: str, values: Sequence[str]) -> None:
        for condition in _membership_conditions(column, values):
            self._client.delete(self._collection(table), filter=condition)

    @_raises_gallery_error
    def search(
        self, table: TableName, vector: Vectors, top: int, where: Condition | None
    ) -> list[tuple[Row, float]]:
        hits = self._client.search(
            self._collection(table),
            data=[np.asarray(vector, np.float32)],
            limit=top,
            filter="" if where is None else to_milvus_expression(where),
            output_fields=list(COLUMNS[table]),
            search_params={"params": {"ef": max(_MIN_CANDIDATES, 2 * top)}},
        )
        return [(dict(hit["entity"]), float(hit["distance"])) for hit in hits[0]]

    @_raises_gallery_error
    def get(
        self, table: TableName, column: str, values: Sequence[str], *, vectors: bool = False
    ) -> list[Row]:
        columns = [*COLUMNS[table], *([VECTOR] if vectors else [])]
        return [
            row
            for condition in _membership_conditions(column, values)
            for rows in self._query(table, condition, columns)
            for row in rows
        ]

    def scan(self, table: TableName, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            for rows in self._query(table, "", columns, consistency_level="Strong"):
                arrays = [
                    _to_array(table, name, [row.get(name) for row in rows]) for name in columns
                ]
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
        except MilvusException as error:
            raise _gallery_error(self.address, error) from error

    @_raises_gallery_error
    def count(self, table: TableName) -> int:
        rows = self._client.query(
            self._collection(table),
            filter="",
            output_fields=["count(*)"],
            consistency_level="Strong",
        )
        return int(rows[0]["count(*)"])

    def add_fields(self, fields: Mapping[str, Field]) -> None:
        """Do nothing: the collections accept new fields."""

    def optimize(self) -> None:
        """Do nothing: the server compacts and indexes by itself."""

    @_raises_gallery_error
    def describe(self) -> dict[str, str]:
        version = self._client.get_server_version()
        return {"store": f"Milvus {version}", "index": "HNSW, cosine"}

    def close(self) -> None:
        self._client.close()

    def _collection(self, table: str) -> str:
        return f"{self._name}_{table}"

    def _create(self, table: str, columns: Mapping[str, pa.DataType], dim: int) -> None:
        collection = self._collection(table)
        if self._client.has_collection(collection):
            return
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=True)
        for name, kind in columns.items():
            if pa.types.is_integer(kind):
                schema.add_field(name, DataType.INT64)
            else:
                schema.add_field(
                    name,
                    DataType.VARCHAR,
                    is_primary=name == "id",
                    max_length=_MAX_BYTES.get(name, _MAX_BYTES_OTHERS),
                )
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dim)
        index = self._client.prepare_index_params()
        index.add_index(VECTOR, **_INDEX, params=_INDEX_BUILD)
        if table in _LOOKUP_COLUMN:
            index.add_index(_LOOKUP_COLUMN[table], index_type="Trie")
        self._client.create_collection(
            collection,
            schema=schema,
            index_params=index,
            consistency_level="Session",
            num_shards=self._shards,
        )
        if self._replicas > 1:  # create_collection has loaded one replica
            self._client.release_collection(collection)
            self._client.load_collection(collection, replica_number=self._replicas)

    def _query(
        self, table: TableName, condition: str, columns: Sequence[str], **options: Any
    ) -> Iterator[list[Row]]:
        iterator = self._client.query_iterator(
            self._collection(table),
            filter=condition,
            output_fields=list(columns),
            batch_size=_BATCH,
            **options,
        )
        try:
            while rows := iterator.next():
                yield rows
        finally:
            iterator.close()


def to_milvus_expression(condition: Condition) -> str:
    """Write a condition as a boolean expression of Milvus.

    The fields are dynamic, so a row may lack one; a comparison is true only if it exists.

    >>> to_milvus_expression(Comparison("field_0", "=", "red"))
    '(exists field_0) and (field_0 == "red")'
    """
    return render_condition(condition, _milvus_comparison, _milvus_null_test)


def _milvus_comparison(comparison: Comparison) -> str:
    column, value = comparison.column, comparison.value
    literal = _quote(value) if isinstance(value, str) else render_literal(value)
    operator = "==" if comparison.operator == "=" else comparison.operator
    return f"(exists {column}) and ({column} {operator} {literal})"


def _milvus_null_test(test: NullTest) -> str:
    return f"{'not ' if test.is_null else ''}(exists {test.column})"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _gallery_error(address: str, error: MilvusException) -> GalleryError:
    return GalleryError(f"{address}: {_reason(error)}")


def _reason(error: MilvusException) -> str:
    """Return the message of the server without the error's code."""
    return error_reason(RuntimeError(error.message))


def _read_options(address: str, query: str) -> tuple[int, int]:
    """Return the numbers of shards and replicas that an address requests."""
    options = {"shards": "1", "replicas": "1", **dict(parse_qsl(query))}
    valid = all(number.isdecimal() and int(number) for number in options.values())
    if len(options) > 2 or not valid:
        raise GalleryError(
            f"{address}: only shards and replicas may follow the ?, as in ?shards=4&replicas=2"
        )
    return int(options["shards"]), int(options["replicas"])


def _membership_conditions(column: str, values: Sequence[str]) -> Iterator[str]:
    """Yield expressions that ``column`` is one of the values, for a part of them each."""
    for start in range(0, len(values), _BATCH):
        yield f"{column} in {json.dumps(list(values[start : start + _BATCH]))}"


def _to_array(table: TableName, name: str, values: Sequence[Any]) -> pa.Array:
    if name == VECTOR:
        flat = np.asarray(values, np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    return pa.array(values, COLUMNS[table].get(name))
