"""What a gallery holds: pictures and their captions, as rows of Arrow tables."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from dualpath.gallery.errors import FieldError
from dualpath.gallery.filters import Field, Kind
from dualpath.vectors import Vectors

TableName = Literal["pictures", "captions"]
VECTOR = "vector"
_ARROW: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
COLUMNS: dict[TableName, dict[str, pa.DataType]] = {
    "pictures": {
        "id": pa.string(),
        "path": pa.string(),  # absolute
        "name": pa.string(),  # as its folder or manifest names it
        "size": pa.int64(),  # bytes
        "modified": pa.int64(),  # nanoseconds
        "width": pa.int64(),  # pixels, upright
        "height": pa.int64(),
        "content": pa.string(),  # hash of the bytes
        "captions": pa.string(),  # JSON
        "metadata": pa.string(),  # JSON
    },
    "captions": {"id": pa.string(), "picture": pa.string(), "text": pa.string()},
}


@dataclass(frozen=True)
class Picture:
    """A picture of a gallery. ``id`` is a hash of its path, ``content`` one of its bytes."""

    id: str
    path: Path
    name: str
    size: int
    modified: int
    width: int
    height: int
    content: str
    captions: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = dataclass_field(default_factory=dict)


@dataclass(frozen=True)
class Hit:
    """A picture found; ``score`` is the cosine with the query.

    ``probability``: that it is what a sentence asked for (:mod:`dualpath.calibration`); none for
    pictures asked for by a picture, and of models that were trained without validation.
    """

    picture: Picture
    score: float
    probability: float | None = None


@dataclass(frozen=True)
class CaptionHit:
    """A caption found, with its picture; ``score`` is the cosine with the query."""

    caption: str
    picture: Picture
    score: float


class Rows(NamedTuple):
    """Rows of both tables, ready to be stored."""

    pictures: pa.Table
    captions: pa.Table


def picture_id(path: Path) -> str:
    """Return the id of the picture at an absolute path, 32 hexadecimal digits."""
    return hashlib.blake2b(str(path).encode(), digest_size=16).hexdigest()


def words_of(picture: Picture) -> tuple[str, str]:
    """Return the cells of a picture's captions and metadata."""
    return (
        json.dumps(picture.captions, ensure_ascii=False),
        json.dumps(picture.metadata, ensure_ascii=False, default=str),
    )


def schema(table: TableName, dim: int, fields: Mapping[str, Field]) -> pa.Schema:
    """Return the columns of a table: its own, the fields of the metadata, the vector."""
    return pa.schema(
        [
            *COLUMNS[table].items(),
            *((field.column, _ARROW[field.kind]) for field in fields.values()),
            (VECTOR, pa.list_(pa.float32(), dim)),
        ]
    )


def to_rows(
    pictures: Sequence[Picture],
    vectors: Vectors,
    caption_vectors: Vectors,
    fields: Mapping[str, Field],
) -> Rows:
    """Lay out pictures, (n, dim), and all their captions in order, (m, dim), as rows."""
    cells = [_field_cells(picture, fields) for picture in pictures]
    captions = [
        {"id": f"{picture.id}-{number}", "picture": picture.id, "text": text, **own}
        for picture, own in zip(pictures, cells, strict=True)
        for number, text in enumerate(picture.captions)
    ]
    told = [
        {
            **{name: getattr(picture, name) for name in COLUMNS["pictures"]},
            "path": str(picture.path),
            **dict(zip(("captions", "metadata"), words_of(picture), strict=True)),
            **own,
        }
        for picture, own in zip(pictures, cells, strict=True)
    ]
    return Rows(
        _table("pictures", told, vectors, fields),
        _table("captions", captions, caption_vectors, fields),
    )


def to_picture(row: Mapping[str, Any]) -> Picture:
    """Read a row of the table of pictures."""
    own = {name: row[name] for name in COLUMNS["pictures"]}
    own |= {
        "path": Path(row["path"]),
        "captions": tuple(json.loads(row["captions"])),
        "metadata": json.loads(row["metadata"]),
    }
    return Picture(**own)


def learn_fields(
    known: Mapping[str, Field], told: Iterable[tuple[str, Mapping[str, Any]]]
) -> dict[str, Field]:
    """Return the fields of a gallery once pictures with this metadata are in it.

    Texts, numbers and booleans can be filtered by; lists and the like are kept as metadata only.
    A new field whose values are of several kinds holds texts.

    Args:
        known: fields there are already; they keep their kind.
        told: names of pictures with their metadata.

    Raises:
        FieldError: a value does not fit the kind of a field that is there already.
    """
    kinds: dict[str, set[Kind]] = {}
    for name, metadata in told:
        for key, value in metadata.items():
            kind = _kind(value)
            if kind is None:
                continue
            there = known.get(key)
            if there is not None and there.kind not in (kind, "text"):
                raise FieldError(
                    f"{name}: '{key}' is {value!r}, but a {there.kind} in the pictures there "
                    f"already; make it a {there.kind} or leave it out"
                )
            kinds.setdefault(key, set()).add(kind)
    fields = dict(known)
    for key, seen in kinds.items():
        one_kind: Kind = next(iter(seen)) if len(seen) == 1 else "text"
        fields.setdefault(key, Field(f"field_{len(fields)}", one_kind))
    return fields


def _kind(value: Any) -> Kind | None:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else None


def _field_cells(picture: Picture, fields: Mapping[str, Field]) -> dict[str, Any]:
    cells: dict[str, Any] = dict.fromkeys(field.column for field in fields.values())
    for key, value in picture.metadata.items():
        field = fields.get(key)
        if field is not None and _kind(value) is not None:
            cells[field.column] = str(value) if field.kind == "text" else value
    return cells


def _table(
    name: TableName, rows: Sequence[dict[str, Any]], vectors: Vectors, fields: Mapping[str, Field]
) -> pa.Table:
    wanted = schema(name, vectors.shape[1], fields)
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    columns = {
        column.name: pa.array([row[column.name] for row in rows], column.type)
        for column in wanted
        if column.name != VECTOR
    }
    columns[VECTOR] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(columns, schema=wanted)
