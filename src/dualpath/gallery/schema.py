"""The tables of a gallery: their names, their columns, and how images become rows."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from dualpath.data.json_values import MAX_EXACT
from dualpath.errors import FieldError
from dualpath.gallery.filters import Field, Kind
from dualpath.types import Vectors

# Names in the files of a gallery. Galleries of version 0.1 have them, so they must not change.
TableName = Literal["pictures", "captions"]
IMAGES: Final = "pictures"
CAPTIONS: Final = "captions"
OWNER: Final = "picture"  # column of a caption: the id of its image
VECTOR: Final = "vector"
JSON_COLUMNS: Final = ("captions", "metadata")  # of an image

_ARROW_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
COLUMNS: dict[TableName, dict[str, pa.DataType]] = {
    IMAGES: {
        "id": pa.string(),
        "path": pa.string(),  # absolute
        "name": pa.string(),  # in the folder or manifest
        "size": pa.int64(),  # bytes
        "modified": pa.int64(),  # nanoseconds
        "width": pa.int64(),  # pixels, upright
        "height": pa.int64(),
        "content": pa.string(),  # hash of the bytes
        "captions": pa.string(),  # JSON
        "metadata": pa.string(),  # JSON
    },
    CAPTIONS: {"id": pa.string(), OWNER: pa.string(), "text": pa.string()},
}


@dataclass(frozen=True)
class GalleryImage:
    """An image of a gallery.

    Attributes:
        id: a hash of the path, 32 hexadecimal digits.
        path: the absolute path of the file.
        name: the path in the folder or manifest from which the image was indexed.
        size: of the file in bytes.
        modified: modification time of the file in nanoseconds.
        width, height: in pixels, upright.
        content: a hash of the bytes of the file, 32 hexadecimal digits.
        captions: in the order of the manifest.
        metadata: the other keys of the manifest.
    """

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
    """An image found by a search.

    Attributes:
        image: the image.
        score: cosine similarity of the image and the query.
        probability: that the image fits the query (:mod:`dualpath.inference.calibration`). None if
            the query is an image, or if the model was trained without validation images.
    """

    image: GalleryImage
    score: float
    probability: float | None = None


@dataclass(frozen=True)
class CaptionHit:
    """A caption found by a search.

    Attributes:
        caption: the text.
        image: the image that the caption describes.
        score: cosine similarity of the caption and the query.
    """

    caption: str
    image: GalleryImage
    score: float


class Rows(NamedTuple):
    """Rows of both tables, ready to be stored."""

    images: pa.Table
    captions: pa.Table


def image_id(path: Path) -> str:
    """Return the id of the image at an absolute path, 32 hexadecimal digits.

    >>> image_id(Path("/photos/boat.jpg"))
    'ac84b855f33b36ac02702c32105abcf0'
    """
    return hashlib.blake2b(str(path).encode(), digest_size=16).hexdigest()


def serialize_text(image: GalleryImage) -> tuple[str, str]:
    """Return the captions and the metadata of an image as JSON."""
    return (
        json.dumps(image.captions, ensure_ascii=False),
        json.dumps(image.metadata, ensure_ascii=False, default=str),
    )


def schema(table: TableName, dim: int, fields: Mapping[str, Field]) -> pa.Schema:
    """Return the columns of a table: its own columns, one for each metadata field, the vector."""
    return pa.schema(
        [
            *COLUMNS[table].items(),
            *((field.column, _ARROW_TYPES[field.kind]) for field in fields.values()),
            (VECTOR, pa.list_(pa.float32(), dim)),
        ]
    )


def to_rows(
    images: Sequence[GalleryImage],
    vectors: Vectors,
    caption_vectors: Vectors,
    fields: Mapping[str, Field],
) -> Rows:
    """Convert images and their captions to rows.

    Args:
        images: to be stored.
        vectors: of the images, (images, dim).
        caption_vectors: of all captions of the images, in order, (captions, dim).
        fields: the metadata fields of the gallery.
    """
    field_cells = [_field_cells(image, fields) for image in images]
    image_rows = [
        {
            **{name: getattr(image, name) for name in COLUMNS[IMAGES]},
            "path": str(image.path),
            **dict(zip(("captions", "metadata"), serialize_text(image), strict=True)),
            **cells,
        }
        for image, cells in zip(images, field_cells, strict=True)
    ]
    caption_rows = [
        {"id": f"{image.id}-{number}", OWNER: image.id, "text": text, **cells}
        for image, cells in zip(images, field_cells, strict=True)
        for number, text in enumerate(image.captions)
    ]
    return Rows(
        _to_table(IMAGES, image_rows, vectors, fields),
        _to_table(CAPTIONS, caption_rows, caption_vectors, fields),
    )


def to_image(row: Mapping[str, Any]) -> GalleryImage:
    """Convert a row of the image table to an image.

    The columns that contain JSON may be decoded already.
    """
    cells = {name: row[name] for name in COLUMNS[IMAGES]}
    cells |= {
        "path": Path(row["path"]),
        "captions": tuple(decode_json(row["captions"])),
        "metadata": decode_json(row["metadata"]),
    }
    return GalleryImage(**cells)


def decode_json(cell: Any) -> Any:
    """Return the content of a column that contains JSON, which may be decoded already."""
    # Galleries of earlier versions contain NaN.
    return json.loads(cell, parse_constant=lambda _: None) if isinstance(cell, str) else cell


def merge_fields(
    known: Mapping[str, Field], records: Iterable[tuple[str, Mapping[str, Any]]]
) -> dict[str, Field]:
    """Return the fields of a gallery after images with the given metadata are added.

    Texts, numbers and booleans become fields; an integer above 2**53 counts as text, since a number
    could not hold it exactly. Other values, such as lists, are stored as metadata but filters
    cannot use them. A new field with values of several types becomes a text field.

    Args:
        known: the present fields, which do not change.
        records: names of images with their metadata.

    Raises:
        FieldError: a value does not have the type of a known field.

    >>> merge_fields({}, [("a.jpg", {"year": 2020, "tags": ["x"]})])
    {'year': Field(column='field_0', kind='number')}
    """
    kinds: dict[str, set[Kind]] = {}
    for name, metadata in records:
        for key, value in metadata.items():
            kind = _kind(value)
            if kind is None:
                continue
            field = known.get(key)
            if field is not None and field.kind not in (kind, "text"):
                raise FieldError(
                    f"{name}: '{key}' is {value!r}, but it is a {field.kind} in the indexed "
                    f"images; make it a {field.kind} or remove it"
                )
            kinds.setdefault(key, set()).add(kind)
    fields = dict(known)
    for key, seen in kinds.items():
        new_kind: Kind = next(iter(seen)) if len(seen) == 1 else "text"
        fields.setdefault(key, Field(f"field_{len(fields)}", new_kind))
    return fields


def _kind(value: Any) -> Kind | None:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        exact = isinstance(value, float) or abs(value) <= MAX_EXACT
        return ("number" if math.isfinite(value) else None) if exact else "text"
    return "text" if isinstance(value, str) else None


def _field_cells(image: GalleryImage, fields: Mapping[str, Field]) -> dict[str, Any]:
    cells: dict[str, Any] = dict.fromkeys(field.column for field in fields.values())
    for key, value in image.metadata.items():
        field = fields.get(key)
        if field is not None and _kind(value) is not None:
            cells[field.column] = str(value) if field.kind == "text" else value
    return cells


def _to_table(
    name: TableName, rows: Sequence[dict[str, Any]], vectors: Vectors, fields: Mapping[str, Field]
) -> pa.Table:
    columns = schema(name, vectors.shape[1], fields)
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    arrays = {
        column.name: pa.array([row[column.name] for row in rows], column.type)
        for column in columns
        if column.name != VECTOR
    }
    arrays[VECTOR] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(arrays, schema=columns)
