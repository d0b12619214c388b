"""The cluster store: Milvus, reached by its address."""

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

from dualpath.gallery.errors import GalleryError
from dualpath.gallery.filters import Condition, Field, milvus_expression
from dualpath.gallery.rows import COLUMNS, VECTOR, TableName
from dualpath.gallery.store import About
from dualpath.vectors import Vectors

try:
    from pymilvus import DataType, MilvusClient, MilvusException
except ImportError as error:
    raise GalleryError(
        "a gallery in Milvus needs its client: pip install 'dualpath[cluster]'"
    ) from error

TOKEN_VARIABLE = "MILVUS_TOKEN"
_ABOUT_ROW = "gallery"
_BATCH = 1_000  # rows or values in one message
_LONGEST = {"id": 64, "picture": 64, "content": 64}  # bytes; other texts as long as Milvus takes
_LONGEST_TEXT = 65_535
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_INDEX = {"index_type": "HNSW", "metric_type": "COSINE"}
_BUILD = {"M": 16, "efConstruction": 200}
_LOOKED_UP = {"pictures": "content", "captions": "picture"}  # columns found by value, as ids are
_SEARCH_WIDTH = 128  # candidates of the HNSW index, at least

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _clearly(
    method: Callable[Concatenate["MilvusStore", _P], _R],
) -> Callable[Concatenate["MilvusStore", _P], _R]:
    """Tell what the engine says as one line that names the gallery."""

    def call(self: "MilvusStore", *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(self, *args, **kwargs)
        except MilvusException as error:
            reason = " ".join(str(error.message).split())[:300]
            raise GalleryError(f"{self.address}: {reason}") from error

    return wraps(method)(call)  # type: ignore[return-value]


class MilvusStore:
    """Rows in three collections of a Milvus server, ``NAME_pictures`` and so on.

    A user's token is taken from the variable ``MILVUS_TOKEN`` (``user:password`` or an API key).
    ``?shards=4&replicas=2`` behind the address spreads a new gallery: writes go to so many shards,
    and so many query nodes hold each part of it.
    Milvus has no lock: fill a gallery by one command at a time. Searching needs no care.
    """

    many_writers = True

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        name = parts.path.strip("/")
        if not parts.hostname or not _NAME.fullmatch(name):
            raise GalleryError(
                f"{address}: write it as http://HOST:PORT/NAME, the name of letters, digits and _"
            )
        if parts.username or parts.password:
            raise GalleryError(
                f"put user and password into the variable {TOKEN_VARIABLE}, not into the address"
            )
        self.address = address
        self._name = name
        self._shards, self._replicas = _spread(address, parts.query)
        server = f"{'http' if parts.scheme == 'tcp' else parts.scheme}://{parts.netloc}"
        try:
            self._client = MilvusClient(
                uri=server, token=os.environ.get(TOKEN_VARIABLE, ""), timeout=30
            )
        except MilvusException as error:
            raise GalleryError(
                f"{server}: no Milvus server answers there ({error.message})"
            ) from error

    @_clearly
    def read_about(self) -> About | None:
        if not self._client.has_collection(self._collection("about")):
            return None
        rows = self._client.get(self._collection("about"), ids=[_ABOUT_ROW], output_fields=["note"])
        return None if not rows else dict(json.loads(rows[0]["note"]))

    @_clearly
    def write_about(self, about: About) -> None:
        for table, columns in COLUMNS.items():
            self._create(table, columns, about["dim"])
        self._create("about", {"id": pa.string(), "note": pa.string()}, 2)
        note = json.dumps(about, ensure_ascii=False)
        row = {"id": _ABOUT_ROW, "note": note, VECTOR: [1.0, 0.0]}
        self._client.upsert(self._collection("about"), [row])

    def writing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @_clearly
    def upsert(self, table: TableName, rows: pa.Table) -> None:
        for batch in rows.to_batches(max_chunksize=_BATCH):
            cells = [
                {name: value for name, value in row.items() if value is not None}
                for row in batch.to_pylist()
            ]
            self._client.upsert(self._collection(table), cells)

    @_clearly
    def delete(self, table: TableName, column: str, values: Sequence[str]) -> None:
        for condition in _among(column, values):
            self._client.delete(self._collection(table), filter=condition)

    @_clearly
    def search(
        self, table: TableName, vector: Vectors, top: int, where: Condition | None
    ) -> list[tuple[dict[str, Any], float]]:
        found = self._client.search(
            self._collection(table),
            data=[np.asarray(vector, np.float32)],
            limit=top,
            filter="" if where is None else milvus_expression(where),
            output_fields=list(COLUMNS[table]),
            search_params={"params": {"ef": max(_SEARCH_WIDTH, 2 * top)}},
        )
        return [(dict(hit["entity"]), float(hit["distance"])) for hit in found[0]]

    @_clearly
    def get(
        self, table: TableName, column: str, values: Sequence[str], *, vectors: bool = False
    ) -> list[dict[str, Any]]:
        columns = [*COLUMNS[table], *([VECTOR] if vectors else [])]
        return [
            row
            for condition in _among(column, values)
            for rows in self._query(table, condition, columns)
            for row in rows
        ]

    def scan(self, table: TableName, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            for rows in self._query(table, "", columns, consistency_level="Strong"):
                arrays = [_column(table, name, [row.get(name) for row in rows]) for name in columns]
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
        except MilvusException as error:
            raise GalleryError(f"{self.address}: {error.message}") from error

    @_clearly
    def count(self, table: TableName) -> int:
        rows = self._client.query(
            self._collection(table),
            filter="",
            output_fields=["count(*)"],
            consistency_level="Strong",
        )
        return int(rows[0]["count(*)"])

    def add_fields(self, fields: Mapping[str, Field]) -> None:
        """Do nothing: the collections take fields as they come."""

    def settle(self) -> None:
        """Do nothing: the server keeps its log safe, seals and indexes by itself."""

    @_clearly
    def describe(self) -> dict[str, str]:
        version = self._client.get_server_version()
        return {"store": f"Milvus {version}", "index": "HNSW, cosine"}

    def close(self) -> None:
        self._client.close()

    def _collection(self, table: str) -> str:
        return f"{self._name}_{table}"

    def _create(self, table: str, columns: Mapping[str, pa.DataType], dim: int) -> None:
        if self._client.has_collection(self._collection(table)):
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
                    max_length=_LONGEST.get(name, _LONGEST_TEXT),
                )
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dim)
        index = self._client.prepare_index_params()
        index.add_index(VECTOR, **_INDEX, params=_BUILD)
        if table in _LOOKED_UP:
            index.add_index(_LOOKED_UP[table], index_type="Trie")
        self._client.create_collection(
            self._collection(table),
            schema=schema,
            index_params=index,
            consistency_level="Session",
            num_shards=self._shards,
        )
        if self._replicas > 1:  # it was loaded once, when it was made
            self._client.release_collection(self._collection(table))
            self._client.load_collection(self._collection(table), replica_number=self._replicas)

    def _query(
        self, table: TableName, condition: str, columns: Sequence[str], **options: Any
    ) -> Iterator[list[dict[str, Any]]]:
        found = self._client.query_iterator(
            self._collection(table),
            filter=condition,
            output_fields=list(columns),
            batch_size=_BATCH,
            **options,
        )
        try:
            while rows := found.next():
                yield rows
        finally:
            found.close()


def _spread(address: str, query: str) -> tuple[int, int]:
    """Read how many shards and replicas an address asks for."""
    asked = {"shards": "1", "replicas": "1", **dict(parse_qsl(query))}
    if len(asked) > 2 or not all(number.isdecimal() and int(number) for number in asked.values()):
        raise GalleryError(
            f"{address}: after the ? only shards and replicas may stand, as ?shards=4&replicas=2"
        )
    return int(asked["shards"]), int(asked["replicas"])


def _among(column: str, values: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(values), _BATCH):
        yield f"{column} in {json.dumps(list(values[start : start + _BATCH]))}"


def _column(table: TableName, name: str, values: Sequence[Any]) -> pa.Array:
    if name == VECTOR:
        flat = np.asarray(values, np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    return pa.array(values, COLUMNS[table].get(name))
