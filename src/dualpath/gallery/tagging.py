"""Changing the metadata of images that are indexed already, and classifying them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dualpath.gallery.schema import CAPTIONS, IMAGES, OWNER, VECTOR, to_image, to_rows
from dualpath.types import Progress, Vectors, no_progress

if TYPE_CHECKING:
    from dualpath.gallery.gallery import Gallery
    from dualpath.inference.zero_shot import ZeroShotClassifier

_CHUNK = 500  # images


def classify_gallery(
    gallery: "Gallery",
    classifier: "ZeroShotClassifier",
    field: str,
    *,
    progress: Progress = no_progress,
) -> int:
    """Write the most probable label of each image and its probability as metadata.

    The stored vectors are used, so no image is read. Indexing an image again replaces its metadata
    by that of the manifest.

    Args:
        field: name of the field of the label. ``<field>_probability`` is the other one.
        progress: called with the number of images finished since the last call.

    Returns:
        The number of images.
    """
    count = 0
    for ids, vectors in _vectors(gallery):
        best = [scores[0] for scores in classifier.classify(vectors, top=1)]
        gallery.update_metadata(
            {
                identifier: {
                    field: one.label,
                    f"{field}_probability": round(one.probability, 4),
                }
                for identifier, one in zip(ids, best, strict=True)
            }
        )
        count += len(ids)
        progress(len(ids))
    return count


def rewrite_metadata(gallery: "Gallery", updates: Mapping[str, Mapping[str, Any]]) -> None:
    """Merge values into the metadata of images; the fields exist already.

    Args:
        updates: id of the image to its new values.
    """
    store, fields = gallery.store, gallery.info.fields
    for ids in _chunks(list(updates)):
        with store.write_lock():
            rows = {row["id"]: row for row in store.get(IMAGES, "id", ids, vectors=True)}
            captions: dict[str, Any] = {
                row["id"]: row[VECTOR] for row in store.get(CAPTIONS, OWNER, ids, vectors=True)
            }
            images = [
                replace(image, metadata={**image.metadata, **updates[image.id]})
                for image in map(to_image, rows.values())
            ]
            vectors = _stack([rows[image.id][VECTOR] for image in images], gallery.info.dim)
            caption_vectors = _stack(
                [captions[f"{one.id}-{n}"] for one in images for n in range(len(one.captions))],
                gallery.info.dim,
            )
            new = to_rows(images, vectors, caption_vectors, fields)
            store.upsert(CAPTIONS, new.captions)
            store.upsert(IMAGES, new.images)


def _vectors(gallery: "Gallery") -> Iterator[tuple[list[str], Vectors]]:
    """Yield ids and vectors of all images."""
    batches = [batch.column("id").to_pylist() for batch in gallery.store.scan(IMAGES, ["id"])]
    for ids in _chunks([identifier for batch in batches for identifier in batch]):
        rows = gallery.store.get(IMAGES, "id", ids, vectors=True)
        yield (
            [row["id"] for row in rows],
            _stack([row[VECTOR] for row in rows], gallery.info.dim),
        )


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield list(ids[start : start + _CHUNK])


def _stack(vectors: Sequence[Any], dim: int) -> Vectors:
    return np.array(vectors, np.float32).reshape(len(vectors), dim)
