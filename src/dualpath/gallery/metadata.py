"""Changing the metadata of images that are indexed already."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dualpath.gallery.filters import Field
from dualpath.gallery.schema import CAPTIONS, IMAGES, OWNER, VECTOR, to_image, to_rows
from dualpath.gallery.stores.base import Store
from dualpath.types import Vectors

_CHUNK = 500  # images


def rewrite_metadata(
    store: Store,
    fields: Mapping[str, Field],
    dim: int,
    updates: Mapping[str, Mapping[str, Any]],
) -> None:
    """Merge values into the metadata of images; the fields exist already.

    Args:
        store: of the gallery.
        fields: of the gallery, by metadata key.
        dim: length of a vector.
        updates: id of the image to its new values.
    """
    for ids in chunks(list(updates)):
        with store.write_lock():
            rows = {row["id"]: row for row in store.get(IMAGES, "id", ids, vectors=True)}
            captions: dict[str, Any] = {
                row["id"]: row[VECTOR] for row in store.get(CAPTIONS, OWNER, ids, vectors=True)
            }
            images = [
                replace(image, metadata={**image.metadata, **updates[image.id]})
                for image in map(to_image, rows.values())
            ]
            vectors = stack([rows[image.id][VECTOR] for image in images], dim)
            caption_vectors = stack(
                [captions[f"{one.id}-{n}"] for one in images for n in range(len(one.captions))],
                dim,
            )
            new = to_rows(images, vectors, caption_vectors, fields)
            store.upsert(CAPTIONS, new.captions)
            store.upsert(IMAGES, new.images)


def chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield the ids, some hundreds at a time."""
    for start in range(0, len(ids), _CHUNK):
        yield list(ids[start : start + _CHUNK])


def stack(vectors: Sequence[Any], dim: int) -> Vectors:
    """Return vectors of rows as an array, (vectors, dim) float32, also of none."""
    return np.array(vectors, np.float32).reshape(len(vectors), dim)
