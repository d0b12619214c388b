"""Searching the rows of a gallery."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dualpath.errors import UnknownImageError
from dualpath.gallery.derived.searcher import Searcher, VectorQuery
from dualpath.gallery.schema import (
    CAPTIONS,
    IMAGES,
    OWNER,
    VECTOR,
    CaptionHit,
    GalleryImage,
    Hit,
    to_image,
)
from dualpath.gallery.stores.base import Store
from dualpath.types import Vectors

if TYPE_CHECKING:
    from dualpath.inference.calibration import Calibration


def search_captions(searcher: Searcher, store: Store, query: VectorQuery) -> list[CaptionHit]:
    """Return the captions nearest to a query, best first."""
    [found] = searcher.search(CAPTIONS, [query])
    images = get_images(store, [row[OWNER] for row, _ in found])
    return [
        CaptionHit(row["text"], images[row[OWNER]], score)
        for row, score in found
        if row[OWNER] in images  # another process may be removing the image
    ]


def get_images(store: Store, ids: Sequence[str]) -> dict[str, GalleryImage]:
    """Return images by id. Unknown ids are left out."""
    rows = store.get(IMAGES, "id", sorted(set(ids))) if ids else []
    return {row["id"]: to_image(row) for row in rows}


def get_vector(store: Store, image_id: str) -> Vectors:
    """Return the vector of an image, (dim,).

    Raises:
        UnknownImageError: no image has this id.
    """
    rows = store.get(IMAGES, "id", [image_id], vectors=True)
    if not rows:
        raise UnknownImageError(f"no image of the gallery has the id {image_id}")
    return np.asarray(rows[0][VECTOR], np.float32)


def with_probabilities(
    hits: Sequence[Hit], calibration: "Calibration", min_probability: float | None
) -> list[Hit]:
    """Add probabilities to hits. Leave out the hits with a probability below the minimum."""
    complete = (replace(h, probability=calibration.probability(h.score)) for h in hits)
    least = min_probability or 0.0
    return [hit for hit in complete if (hit.probability or 0.0) >= least]
