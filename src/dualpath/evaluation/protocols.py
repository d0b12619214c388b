"""Protocols: which queries are compared with which gallery, and what is reported.

Each takes the vectors of the images and captions of a split in the order of the manifest, (n, dim)
and (m, dim) float32, and the instance of each, (n,) and (m,) int64. Scores are dot products. Every
member of the query's instance is a right answer.

A new protocol is a function here and a line in :data:`PROTOCOLS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from dualpath.errors import ProtocolError
from dualpath.evaluation.metrics import RetrievalMetrics, rank_relevant, retrieval_metrics
from dualpath.types import IntArray, Vectors

_FOLD = 1000  # images


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation.

    Attributes:
        protocol: its name.
        images, captions: how many were compared.
        text_to_image: captions are the queries.
        image_to_text: images are the queries. None where the protocol has one direction.
        rsum: sum of the six recalls, percent. None where the protocol has one direction.
        identities: number of people, in person search.
        split: of the manifest.
        query_bank: the split that re-ranked the results, if any.
    """

    protocol: str
    images: int
    captions: int
    text_to_image: RetrievalMetrics
    image_to_text: RetrievalMetrics | None = None
    rsum: float | None = None
    identities: int | None = None
    split: str | None = None
    query_bank: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON, without what the protocol does not report."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EvaluationResult":
        """Read what :meth:`to_dict` returned; unknown keys are ignored."""
        known = {field.name for field in fields(cls)}
        found = {name: value for name, value in values.items() if name in known}
        for name in ("text_to_image", "image_to_text"):
            if name in found:
                found[name] = RetrievalMetrics(**found[name])
        return cls(**found)


Protocol = Callable[[Vectors, Vectors, IntArray, IntArray], EvaluationResult]


def evaluate_all(
    image_vectors: Vectors,
    text_vectors: Vectors,
    image_instances: IntArray,
    text_instances: IntArray,
) -> EvaluationResult:
    """Compare every image with every caption, in both directions.

    >>> eye = np.eye(2, dtype=np.float32)
    >>> evaluate_all(eye, eye, np.arange(2), np.arange(2)).rsum
    600.0
    """
    image_to_text = retrieval_metrics(
        rank_relevant(image_vectors, text_vectors, image_instances, text_instances)
    )
    text_to_image = retrieval_metrics(
        rank_relevant(text_vectors, image_vectors, text_instances, image_instances)
    )
    return EvaluationResult(
        protocol="all",
        images=len(image_vectors),
        captions=len(text_vectors),
        text_to_image=text_to_image,
        image_to_text=image_to_text,
        rsum=_rsum(image_to_text, text_to_image),
    )


def evaluate_flickr_1k(
    image_vectors: Vectors,
    text_vectors: Vectors,
    image_instances: IntArray,
    text_instances: IntArray,
) -> EvaluationResult:
    """Compare 1,000 images with all their captions (paper, section 5.1, Flickr30k).

    Raises:
        ProtocolError: the split has another number of images.
    """
    _require_images("flickr-1k", len(image_vectors), 1000)
    result = evaluate_all(image_vectors, text_vectors, image_instances, text_instances)
    return replace(result, protocol="flickr-1k")


def evaluate_coco_5k(
    image_vectors: Vectors,
    text_vectors: Vectors,
    image_instances: IntArray,
    text_instances: IntArray,
) -> EvaluationResult:
    """Compare 5,000 images with all their captions (paper, section 5.1, MSCOCO).

    Raises:
        ProtocolError: the split has another number of images.
    """
    _require_images("coco-5k", len(image_vectors), 5000)
    result = evaluate_all(image_vectors, text_vectors, image_instances, text_instances)
    return replace(result, protocol="coco-5k")


def evaluate_coco_1k(
    image_vectors: Vectors,
    text_vectors: Vectors,
    image_instances: IntArray,
    text_instances: IntArray,
) -> EvaluationResult:
    """Average over five consecutive folds of 1,000 of the 5,000 images (MSCOCO 1K).

    Every figure is a mean over the folds, also the median ranks.

    Raises:
        ProtocolError: the split has another number of images, or two folds share an instance.
    """
    _require_images("coco-1k", len(image_vectors), 5 * _FOLD)
    folds = []
    for start in range(0, len(image_vectors), _FOLD):
        fold = slice(start, start + _FOLD)
        instances = image_instances[fold]
        texts = np.isin(text_instances, instances)
        folds.append(
            evaluate_all(image_vectors[fold], text_vectors[texts], instances, text_instances[texts])
        )
    if sum(fold.captions for fold in folds) != len(text_vectors):
        raise ProtocolError("coco-1k: images of one instance are in different folds")
    image_to_text = _mean_metrics([f.image_to_text for f in folds if f.image_to_text is not None])
    text_to_image = _mean_metrics([fold.text_to_image for fold in folds])
    return EvaluationResult(
        protocol="coco-1k",
        images=len(image_vectors),
        captions=len(text_vectors),
        text_to_image=text_to_image,
        image_to_text=image_to_text,
        rsum=float(np.mean([fold.rsum for fold in folds if fold.rsum is not None])),
    )


def evaluate_person(
    image_vectors: Vectors,
    text_vectors: Vectors,
    image_instances: IntArray,
    text_instances: IntArray,
) -> EvaluationResult:
    """Compare every caption with every image; every image of its person is right (CUHK-PEDES)."""
    ranks = rank_relevant(text_vectors, image_vectors, text_instances, image_instances)
    return EvaluationResult(
        protocol="person",
        images=len(image_vectors),
        captions=len(text_vectors),
        text_to_image=retrieval_metrics(ranks),
        identities=len(np.unique(image_instances)),
    )


PROTOCOLS: dict[str, Protocol] = {
    "all": evaluate_all,
    "flickr-1k": evaluate_flickr_1k,
    "coco-5k": evaluate_coco_5k,
    "coco-1k": evaluate_coco_1k,
    "person": evaluate_person,
}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ProtocolError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(
            f"protocol '{name}' does not exist; choose one of {', '.join(PROTOCOLS)}"
        )
    return PROTOCOLS[name]


def _rsum(*directions: RetrievalMetrics) -> float:
    recalls = [(m.recall_at_1, m.recall_at_5, m.recall_at_10) for m in directions]
    return sum(recall for direction in recalls for recall in direction)


def _mean_metrics(folds: Sequence[RetrievalMetrics]) -> RetrievalMetrics:
    means = {
        name: float(np.mean([getattr(fold, name) for fold in folds]))
        for name in (field.name for field in fields(RetrievalMetrics))
        if all(getattr(fold, name) is not None for fold in folds)
    }
    return RetrievalMetrics(**means)


def _require_images(protocol: str, images: int, required: int) -> None:
    if images != required:
        raise ProtocolError(
            f"{protocol} needs {required:,} images, and the split has {images:,}; choose another "
            "--split, or --protocol all"
        )
