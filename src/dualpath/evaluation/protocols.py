"""Protocols: which queries meet which gallery, and what is reported."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dualpath.data.manifest import Item, ManifestError
from dualpath.evaluation.metrics import as_dict, rank_relevant, retrieval_metrics

Vectors = npt.NDArray[np.float32]


def evaluate_all(
    image_vectors: Vectors,
    text_vectors: Vectors,
    image_instances: npt.NDArray[np.int64],
    text_instances: npt.NDArray[np.int64],
) -> dict[str, Any]:
    """Every picture against every caption and back; members of one instance are right.

    Args:
        image_vectors: (n, dim) float32. text_vectors: (m, dim) float32. Scores are dot products.
        image_instances: (n,) int64. text_instances: (m,) int64.

    Returns:
        ``image_to_text`` and ``text_to_image`` (the fields of :class:`RetrievalMetrics`), ``rsum``
        (the sum of the six recalls, percent), ``images``, ``captions``, ``protocol``.
    """
    images, texts = torch.from_numpy(image_vectors), torch.from_numpy(text_vectors)
    of_images, of_texts = torch.from_numpy(image_instances), torch.from_numpy(text_instances)
    image_to_text = as_dict(retrieval_metrics(rank_relevant(images, texts, of_images, of_texts)))
    text_to_image = as_dict(retrieval_metrics(rank_relevant(texts, images, of_texts, of_images)))
    return {
        "image_to_text": image_to_text,
        "text_to_image": text_to_image,
        "rsum": sum(
            d[f"recall_at_{k}"] for d in (image_to_text, text_to_image) for k in (1, 5, 10)
        ),
        "images": len(images),
        "captions": len(texts),
        "protocol": "all",
    }


def captioned(items: Sequence[Item], split: str) -> list[Item]:
    """Return the items of a split that have a caption; raise ``ManifestError`` for none."""
    kept = [item for item in items if item.captions]
    if not kept:
        raise ManifestError(f"split '{split}' has no picture with a caption")
    return kept


def instance_numbers(items: Sequence[Item]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the instance of each picture, (n,), and of each caption, (m,), as numbers."""
    numbers: dict[str, int] = {}
    of_images = np.array([numbers.setdefault(item.instance, len(numbers)) for item in items])
    return of_images, np.repeat(of_images, [len(item.captions) for item in items])
