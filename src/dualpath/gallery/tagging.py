"""Classifying the images of a gallery, by their stored vectors."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dualpath.gallery.metadata import chunks, stack
from dualpath.gallery.schema import IMAGES, VECTOR
from dualpath.types import Progress, Vectors, no_progress

if TYPE_CHECKING:
    from dualpath.gallery.gallery import Gallery
    from dualpath.inference.zero_shot import ZeroShotClassifier


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


def _vectors(gallery: "Gallery") -> Iterator[tuple[list[str], Vectors]]:
    """Yield ids and vectors of all images."""
    batches = [batch.column("id").to_pylist() for batch in gallery.store.scan(IMAGES, ["id"])]
    for ids in chunks([identifier for batch in batches for identifier in batch]):
        rows = gallery.store.get(IMAGES, "id", ids, vectors=True)
        yield (
            [row["id"] for row in rows],
            stack([row[VECTOR] for row in rows], gallery.info.dim),
        )
