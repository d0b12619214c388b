"""Protocols: which queries meet which gallery, and what is reported.

Each takes the vectors of a split's pictures and captions in the order of the manifest, (n, dim)
and (m, dim) float32, and the instance of each, (n,) and (m,) int64. Scores are dot products; a
member of the query's instance is a right answer.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dualpath.data.items import Items
from dualpath.data.manifest import ManifestError
from dualpath.evaluation.metrics import as_dict, rank_relevant, retrieval_metrics

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Protocol = Callable[[Vectors, Vectors, Numbers, Numbers], dict[str, Any]]
_RECALLS = tuple(f"recall_at_{k}" for k in (1, 5, 10))
_FOLD = 1000


class ProtocolError(ValueError):
    """A split that a protocol cannot be measured on; the message says what it needs."""


def evaluate_all(
    image_vectors: Vectors,
    text_vectors: Vectors,
    image_instances: Numbers,
    text_instances: Numbers,
) -> dict[str, Any]:
    """Every picture against every caption and back; members of one instance are right.

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
        "rsum": sum(way[recall] for way in (image_to_text, text_to_image) for recall in _RECALLS),
        "images": len(images),
        "captions": len(texts),
        "protocol": "all",
    }


def evaluate_flickr_1k(
    image_vectors: Vectors, text_vectors: Vectors, image_instances: Numbers, text_instances: Numbers
) -> dict[str, Any]:
    """1,000 pictures against all their captions, both ways (paper, section 5.1, Flickr30k).

    Raises:
        ProtocolError: the split has another number of pictures.
    """
    _need("flickr-1k", len(image_vectors), 1000)
    metrics = evaluate_all(image_vectors, text_vectors, image_instances, text_instances)
    return {**metrics, "protocol": "flickr-1k"}


def evaluate_coco_5k(
    image_vectors: Vectors, text_vectors: Vectors, image_instances: Numbers, text_instances: Numbers
) -> dict[str, Any]:
    """5,000 pictures against all their captions, both ways (paper, section 5.1, MSCOCO).

    Raises:
        ProtocolError: the split has another number of pictures.
    """
    _need("coco-5k", len(image_vectors), 5000)
    metrics = evaluate_all(image_vectors, text_vectors, image_instances, text_instances)
    return {**metrics, "protocol": "coco-5k"}


def evaluate_coco_1k(
    image_vectors: Vectors, text_vectors: Vectors, image_instances: Numbers, text_instances: Numbers
) -> dict[str, Any]:
    """The mean over five consecutive folds of 1,000 of the 5,000 pictures (MSCOCO 1K).

    Every figure is a mean over the folds, that of the median ranks too.

    Raises:
        ProtocolError: the split has another number of pictures, or folds share an instance.
    """
    _need("coco-1k", len(image_vectors), 5 * _FOLD)
    folds = []
    for start in range(0, len(image_vectors), _FOLD):
        fold = slice(start, start + _FOLD)
        of_images = image_instances[fold]
        texts = np.isin(text_instances, of_images)
        folds.append(
            evaluate_all(image_vectors[fold], text_vectors[texts], of_images, text_instances[texts])
        )
    if sum(fold["captions"] for fold in folds) != len(text_vectors):
        raise ProtocolError("coco-1k: pictures of one instance lie in different folds")
    metrics: dict[str, Any] = {
        way: {name: _mean(fold[way][name] for fold in folds) for name in folds[0][way]}
        for way in ("image_to_text", "text_to_image")
    }
    return {
        **metrics,
        "rsum": _mean(fold["rsum"] for fold in folds),
        "images": len(image_vectors),
        "captions": len(text_vectors),
        "protocol": "coco-1k",
    }


def evaluate_person(
    image_vectors: Vectors, text_vectors: Vectors, image_instances: Numbers, text_instances: Numbers
) -> dict[str, Any]:
    """Every caption against every picture; any picture of its identity is right (CUHK-PEDES).

    Returns:
        ``text_to_image`` (the fields of :class:`RetrievalMetrics`), ``images``, ``captions``,
        ``identities`` and ``protocol``.
    """
    ranks = rank_relevant(
        *map(torch.from_numpy, (text_vectors, image_vectors, text_instances, image_instances))
    )
    return {
        "text_to_image": as_dict(retrieval_metrics(ranks)),
        "images": len(image_vectors),
        "captions": len(text_vectors),
        "identities": len(np.unique(image_instances)),
        "protocol": "person",
    }


PROTOCOLS: dict[str, Protocol] = {
    "all": evaluate_all,
    "flickr-1k": evaluate_flickr_1k,
    "coco-5k": evaluate_coco_5k,
    "coco-1k": evaluate_coco_1k,
    "person": evaluate_person,
}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name, or raise :class:`ProtocolError`."""
    if name not in PROTOCOLS:
        raise ProtocolError(f"there is no protocol '{name}'; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _need(protocol: str, pictures: int, wanted: int) -> None:
    if pictures != wanted:
        raise ProtocolError(
            f"{protocol} is measured on {wanted:,} pictures, and the split has {pictures:,}; "
            "choose another --split, or --protocol all"
        )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def captioned(items: Items, split: str) -> Items:
    """Return the items of a split that have a caption; raise ``ManifestError`` for none."""
    kept = items.where(items.caption_counts > 0)
    if not kept:
        raise ManifestError(f"split '{split}' has no picture with a caption")
    return kept


def instance_numbers(items: Items) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the instance of each picture, (n,), and of each caption, (m,), as numbers."""
    of_images = items.instance_numbers
    return of_images, np.repeat(of_images, items.caption_counts)
